"""The erasure journal: what a service restored from a backup must learn again, kept outside of its database.

A folder of numbered segments. Each holds the audit log's next entries as they were hashed, and the keyed hashes of ids
that were suppressed; it ends with a MAC under a key derived from the master key. A segment is written once, and names
the MAC of the one before it. Neither a sample ID nor a key is in it.
"""

import errno
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec

from service import atomic_files, bucket
from service.errors import PreconditionFailed
from service.evidence.commitments import derive

FORMAT = "unlearning-erasures/1"
_NAME = "erasures-{:010d}.ndjson"
_MAC, _PROBE = "mac", "probe"


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a database keeps of the newest segment that it has seen written: its MAC commits to all before it."""

    journal: str
    number: int
    mac: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Entries ``first`` to before ``end`` of the audit log, and tokens as (dataset's id, hex).

    ``journal``: a name drawn with the first segment; ``previous``: the MAC of the segment before. Both are "" in a
    segment of a release that wrote neither; ``mac`` is "" before it is written.
    """

    number: int
    journal: str = ""
    previous: str = ""
    mac: str = ""
    first: int
    end: int
    last_leaf: str
    entries: Sequence[dict[str, Any]] = ()
    tokens: Sequence[tuple[str, str]] = ()

    @property
    def head(self) -> Head:
        return Head(journal=self.journal, number=self.number, mac=self.mac)


def journal_key(master_key: bytes) -> bytes:
    return derive(master_key, "erasure journal")


class Journal:
    """The segments under an fsspec URL. What the place refuses is an OSError."""

    def __init__(self, url: str, key: bytes) -> None:
        in_bucket = bucket.is_bucket(url)
        self._fs, root = fsspec.core.url_to_fs(url, **(bucket.options() if in_bucket else {}))
        self._root, self._key, self._in_bucket = root.rstrip("/"), key, in_bucket

    def numbers(self) -> list[int]:
        """Return the numbers of the segments there are, in order."""
        try:
            with self._refusals():
                found = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        names = [str(path).rsplit("/", 1)[-1] for path in found]
        return sorted(int(name[9:19]) for name in names if name.startswith("erasures-") and name.endswith(".ndjson"))

    def last(self) -> Segment | None:
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def read(self, number: int) -> Segment:
        """Return a segment. Raises PreconditionFailed for one that is not as it was written."""
        with self._refusals():
            content: bytes = self._fs.cat_file(self._path(number))
        body, _, end = content.rstrip(b"\n").rpartition(b"\n")
        mac = json.loads(end).get(_MAC, "") if end.startswith(b"{") else ""
        if not hmac.compare_digest(str(mac), self._mac(body + b"\n")):
            detail = f"Segment {number} of the erasure journal was changed, is cut short, or has another master key."
            raise PreconditionFailed(detail, code="erasure_journal_damaged")
        head, *lines = (json.loads(line) for line in body.splitlines())
        if head["format"] != FORMAT or head["number"] != number:
            raise PreconditionFailed(f"Segment {number} is not one of {FORMAT}.", code="erasure_journal_damaged")
        return Segment(
            number=number,
            journal=head.get("journal", ""),
            previous=head.get("previous", ""),
            mac=mac,
            first=head["first"],
            end=head["end"],
            last_leaf=head["last_leaf"],
            entries=[line for line in lines if "seq" in line],
            tokens=[(line["dataset"], line["token"]) for line in lines if "token" in line],
        )

    def whole(self) -> list[Segment]:
        """Return all segments. Raises PreconditionFailed where one is missing between others."""
        numbers = self.numbers()
        missing = sorted({*range(numbers[0], numbers[-1])} - {*numbers}) if numbers else []
        if missing:
            # Not each has entries whose numbers would show the gap: a long list of ids goes on in segments of its own.
            detail = f"Segments of the erasure journal are missing: {', '.join(map(str, missing[:10]))}."
            raise PreconditionFailed(detail, code="erasure_journal_damaged")
        found = [self.read(number) for number in numbers]
        for before, after in pairwise(found):
            if after.previous not in ("", before.mac):
                detail = f"Segment {after.number} of the erasure journal does not follow the one before it."
                raise PreconditionFailed(detail, code="erasure_journal_damaged")
        return found

    def is_cut(self, known: Head | None, last: Segment | None) -> bool:
        """Say whether a segment that was written is not there any more, or another one in its place.

        Of those before it only what a backup pruned may be gone. Raises OSError, PreconditionFailed.
        """
        if known is None or last is None or last.journal != known.journal:
            return False  # nothing was written, or into another journal, which began with all there was
        if last.number <= known.number:
            return last.head != known
        return known.number in self.numbers() and self.read(known.number).head != known

    def append(self, segment: Segment) -> Segment:
        """Write a segment, whole or not at all; return it with its MAC. Raises FileExistsError if there is one."""
        path = self._path(segment.number)
        head = {"format": FORMAT, "number": segment.number, "first": segment.first, "end": segment.end}
        head |= {"journal": segment.journal, "previous": segment.previous}
        lines: list[dict[str, Any]] = [{**head, "last_leaf": segment.last_leaf}, *segment.entries]
        lines += [{"dataset": dataset, "token": token} for dataset, token in sorted(segment.tokens)]
        body = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        mac = self._mac(body)
        content = body + json.dumps({_MAC: mac}).encode() + b"\n"
        if self._in_bucket:
            with self._refusals():
                self._fs.pipe_file(path, content, mode="create")
        elif "file" in self._fs.protocol:
            _write(Path(path), content)
        else:
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(path, content, mode="create")
        return replace(segment, mac=mac)

    def probe(self) -> bool:
        """Write and remove a file beside the segments; say whether there is a place for it yet. Raises OSError.

        A folder on a disk that is not there is not made: it would belong to whoever asks, and be open to more.
        """
        if self._in_bucket:
            self._probe_bucket()
            return True
        if "file" not in self._fs.protocol:
            self._fs.makedirs(self._root, exist_ok=True)
        elif not Path(self._root).is_dir():
            _refuse_where_no_folder_can_be_made(Path(self._root))
            return False
        path = f"{self._root}/{_PROBE}-{secrets.token_hex(8)}"
        try:
            self._fs.pipe_file(path, b"ok")
        finally:
            # A full disk takes the file and not its bytes.
            if self._fs.exists(path):
                self._fs.rm_file(path)
        return True

    def _probe_bucket(self) -> None:
        """Write an object of a fixed name, since the service may lack the right to delete it.

        One that stayed is not written over, which would add a version each time: the store then says that it is there
        to whoever may write alone.
        """
        path = f"{self._root}/{_PROBE}"
        with suppress(FileExistsError), self._refusals():
            self._fs.pipe_file(path, b"ok", mode="create")
        with suppress(OSError), self._refusals():
            bucket.Bucket(self._fs, self._root).purge(path)

    def remove_before(self, number: int) -> int:
        """Delete the segments before this one, which no backup that is kept needs any more; return how many."""
        old = [each for each in self.numbers() if each < number]
        with self._refusals():
            for each in old:
                self._fs.rm_file(self._path(each))
        return len(old)

    def _refusals(self) -> AbstractContextManager[None]:
        return bucket.refusals() if self._in_bucket else nullcontext()

    def _mac(self, body: bytes) -> str:
        return hmac.new(self._key, body, hashlib.sha256).hexdigest()

    def _path(self, number: int) -> str:
        return f"{self._root}/{_NAME.format(number)}"


def _refuse_where_no_folder_can_be_made(path: Path) -> None:
    """Raise NotADirectoryError or PermissionError, as the nearest folder above that is there would."""
    nearest = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_name(f".{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        atomic_files.name_once(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def story(segments: Iterable[Segment]) -> dict[int, dict[str, Any]]:
    """Return the log's entries by number; where the log was taken up again after a restore, as it went on."""
    found: dict[int, dict[str, Any]] = {}
    for segment in segments:
        for seq in [seq for seq in found if seq >= segment.first]:
            del found[seq]
        found.update({entry["seq"]: entry for entry in segment.entries})
    return found
