"""Content-addressed files: the name of a file is the SHA-256 of its bytes.

Law: what `put` returns a digest for, `open` yields byte for byte until `purge`; nothing appears under a digest
before all of its bytes are stored. What a store refuses is an OSError, whatever its client library raises.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

import fsspec

from service import atomic_files, bucket, faults
from service.errors import NotFound, PreconditionFailed, WrongStore
from service.faults import Step

CHUNK = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PART, _PROBE = "part-", "probe-"
IDENTITY = "store.json"
_FORMAT = "unlearning-artifacts/1"
_PROBE_SECONDS = 5.0


class ArtifactStore:
    """Files under an fsspec URL, a local folder or an object store."""

    def __init__(self, url: str) -> None:
        in_bucket = bucket.is_bucket(url)
        self._fs, root = fsspec.core.url_to_fs(url, **(bucket.options() if in_bucket else {}))
        self._root = root.rstrip("/")
        self._local = "file" in ([self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol)
        self._bucket = bucket.Bucket(self._fs, self._root) if in_bucket else None
        self._probed: tuple[float, bool] | None = None
        if self._bucket is None:
            self._fs.makedirs(self._root, exist_ok=True)

    @property
    def kind(self) -> str:
        """Name the kind of store, as its URL does: ``file``, ``s3``…"""
        names = self._fs.protocol
        return "file" if self._local else str(names if isinstance(names, str) else names[0])

    def put(self, source: Path, *, sha256: str | None = None) -> str:
        """Store a local file and return its digest. Raises PreconditionFailed if it is not ``sha256``."""
        digest = file_digest(source)
        if sha256 is not None and digest != sha256:
            raise PreconditionFailed(f"The file's SHA-256 is {digest}, not {sha256}.")
        target = self._path(digest)
        if self._local and self.size(digest) == source.stat().st_size:
            with suppress(FileNotFoundError):  # deleted a moment ago: store it again
                os.utime(target)  # young again, so that no sweep takes it for an orphan before its row is written
                return digest
        if self._bucket is not None:
            # An object appears whole or not at all; a rename would be a copy.
            faults.reach(Step.ARTIFACT_WRITING)
            with self._refusals():
                self._fs.put_file(str(source), target, chunksize=bucket.BLOCK, max_concurrency=bucket.UPLOADS_AT_ONCE)
            faults.reach(Step.ARTIFACT_RENAMED)
            return digest
        scratch = f"{self._root}/{_PART}{secrets.token_hex(12)}"
        try:
            self._store(source, scratch, target)
        except BaseException:
            # What is left of it would fill a full disk for a day more.
            with suppress(OSError):
                self._fs.rm_file(scratch)
            raise
        return digest

    def _store(self, source: Path, scratch: str, target: str) -> None:
        self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        if self._local:
            _copy_to_disk(source, Path(scratch))
            Path(scratch).replace(target)
            _sync_folder(Path(target).parent)
        else:
            self._fs.put_file(str(source), scratch)
            faults.reach(Step.ARTIFACT_WRITING)
            self._fs.mv(scratch, target)
        faults.reach(Step.ARTIFACT_RENAMED)

    def ensure(self, source: Path, digest: str) -> None:
        """Store a file again whose bytes were deleted after `put`; for whoever holds the digest (`store.digests`)."""
        if self.size(digest) is None:
            self.put(source, sha256=digest)

    def local_path(self, digest: str) -> Path | None:
        """Return the file itself when the store is a local folder. Raises NotFound."""
        if not self._local:
            return None
        path = Path(self._path(digest))
        if not path.is_file():
            raise NotFound("The artifact store does not hold these bytes.", code="artifact_missing")
        return path

    @contextmanager
    def open(self, digest: str) -> Iterator[IO[bytes]]:
        """Yield the bytes as a file. Raises NotFound."""
        try:
            with self._refusals(), self._fs.open(self._path(digest), "rb") as file:
                yield file
        except FileNotFoundError:
            raise NotFound("The artifact store does not hold these bytes.", code="artifact_missing") from None

    def fetch(self, digest: str, target: Path) -> None:
        """Copy the bytes to a local file and check their digest. Raises NotFound, PreconditionFailed."""
        with self.open(digest) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
        if file_digest(target) != digest:
            target.unlink()
            raise PreconditionFailed("The stored bytes no longer match their digest.", code="artifact_corrupt")

    def size(self, digest: str) -> int | None:
        """Return the size in bytes, or None if the digest is not there."""
        try:
            with self._refusals():
                return int(self._fs.info(self._path(digest))["size"])
        except FileNotFoundError:
            return None

    def purge(self, digest: str) -> bool:
        """Delete the bytes, all versions of them, and say whether they are absent now; absent before is fine."""
        with self._refusals():
            return self._remove(self._path(digest))

    def _remove(self, path: str) -> bool:
        if self._bucket is not None:
            return self._bucket.purge(path)
        if self._is_there(path):
            self._fs.rm_file(path)
        self._fs.invalidate_cache()
        return not self._is_there(path)

    def _is_there(self, path: str) -> bool:
        # The library's own `exists` says no for whatever it could not find out, and no is proof of absence here.
        try:
            self._fs.info(path)
        except FileNotFoundError:
            return False
        return True

    def versioning(self) -> str | None:
        """Return how the store keeps what is overwritten or deleted, None where it does not. Raises OSError."""
        with self._refusals():
            return self._bucket.versioning() if self._bucket is not None else None

    def older_than(self, seconds: float) -> list[str]:
        """Return the digests stored longer ago than that."""
        before = time.time() - seconds
        with self._refusals():
            found = self._fs.find(f"{self._root}/sha256", detail=True)
        self._fs.invalidate_cache()  # a remembered listing would name bytes that have gone since
        return [path.rsplit("/", 1)[-1] for path, info in found.items() if _modified(info) < before]

    def remove_parts(self, seconds: float) -> int:
        """Remove what a `put` or a probe that died left behind longer ago than that; return how many files."""
        before = time.time() - seconds
        with self._refusals():
            found = self._listed()
            old = [info["name"] for info in found if _scratch(info["name"]) and _modified(info) < before]
            for path in old:
                self._remove(path)
            return len(old) + (self._bucket.abort_uploads(before) if self._bucket is not None else 0)

    def _listed(self) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            if self._bucket is None:
                raise
            found = []  # a folder of a bucket begins with its first object
        self._fs.invalidate_cache()
        return found

    def writable(self) -> bool:
        """Say whether a file can be written, read and removed; a store elsewhere is asked every few seconds."""
        if self._probed is not None and time.monotonic() - self._probed[0] < _PROBE_SECONDS:
            return self._probed[1]
        try:
            self.probe()
            found = True
        except OSError:
            found = False
        if not self._local:
            self._probed = time.monotonic(), found
        return found

    def probe(self) -> None:
        """Write, read and remove a file. Raises OSError."""
        path = f"{self._root}/{_PROBE}{secrets.token_hex(8)}"
        with self._refusals():
            try:
                self._fs.pipe_file(path, b"ok")
                found: Any = self._fs.cat_file(path)
            except BaseException:
                # A full disk takes the file and not its bytes. A bucket takes an object whole or not at all, and one
                # that is away would be waited for twice.
                if self._bucket is None:
                    with suppress(OSError):
                        self._fs.rm_file(path)
                raise
            gone = self._remove(path)
        if found != b"ok" or not gone:
            raise OSError("the artifact store does not give back what was written, or does not delete it")

    def identity(self) -> str | None:
        """Return the name that the store was given once, None where it has none. Raises OSError."""
        try:
            with self._refusals():
                content: bytes = self._fs.cat_file(f"{self._root}/{IDENTITY}")
        except FileNotFoundError:
            return None
        try:
            return str(json.loads(content)["id"])
        except (ValueError, KeyError, TypeError):
            raise WrongStore(f"The artifact store's {IDENTITY} cannot be read.") from None

    def identify(self, store_id: str) -> None:
        """Give the store its name; one that it has stays. Raises OSError."""
        content = json.dumps({"format": _FORMAT, "id": store_id}).encode() + b"\n"
        target = f"{self._root}/{IDENTITY}"
        with suppress(FileExistsError), self._refusals():
            if self._local:
                _write_once(Path(target), content)
            else:
                self._fs.pipe_file(target, content, mode="create")

    def holds_bytes(self) -> bool:
        """Say whether any digest is there. Raises OSError."""
        try:
            with self._refusals():
                folders: list[str] = self._fs.ls(f"{self._root}/sha256", detail=False)
                return any(self._fs.ls(folder, detail=False) for folder in folders)
        except FileNotFoundError:
            return False
        finally:
            self._fs.invalidate_cache()

    def _refusals(self) -> AbstractContextManager[None]:
        return bucket.refusals() if self._bucket is not None else nullcontext()

    def _path(self, digest: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise NotFound("That is not a SHA-256 digest.", code="artifact_missing")
        return f"{self._root}/sha256/{digest[:2]}/{digest}"


def file_digest(path: Path) -> str:
    """Return the lowercase hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _scratch(path: str) -> bool:
    return path.rsplit("/", 1)[-1].startswith((_PART, _PROBE))


def _modified(info: dict[str, Any]) -> float:
    """Return when a file was written, seconds since 1970; stores name this differently."""
    for name in ("mtime", "LastModified", "last_modified", "created"):
        value = info.get(name)
        if value is not None:
            return float(value.timestamp() if hasattr(value, "timestamp") else value)
    return time.time()


def _copy_to_disk(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK)
        faults.reach(Step.ARTIFACT_WRITING)
        writer.flush()
        os.fsync(writer.fileno())


def _write_once(target: Path, content: bytes) -> None:
    """Make a file, whole or not at all. Raises FileExistsError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{_PART}{secrets.token_hex(12)}")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        atomic_files.name_once(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
