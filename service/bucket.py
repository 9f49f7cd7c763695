"""What an S3 bucket asks for beyond what fsspec promises of any store: versions of objects, and uploads broken off.

In a bucket with versioning a deletion adds a marker, and every byte stays. So `purge` deletes each version by its id.
Nothing here makes a bucket: a mistyped name would make one that nobody guards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import fsspec

if TYPE_CHECKING:
    from s3fs import S3FileSystem

# Small, since as much is held in memory for each upload and each reader; S3 takes parts of 5 MiB and more.
BLOCK = 8 << 20
UPLOADS_AT_ONCE = 4
_DELETED_AT_ONCE = 1000
_CANNOT_VERSION = ("NotImplemented", "MethodNotAllowed", "UnsupportedOperation")
_TIMES = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 2}}


def is_bucket(url: str) -> bool:
    """Say whether the URL names an S3 bucket."""
    return url.startswith(("s3://", "s3a://"))


def options() -> dict[str, Any]:
    """Return how to open the file system; what the operator configured by ``FSSPEC_S3_*`` stands."""
    found: dict[str, Any] = {
        "skip_instance_cache": True,  # one of another thread, endpoint or parent process is no good here
        "use_listings_cache": False,  # other processes add and delete: a remembered listing is a false one
        "default_block_size": BLOCK,
        "config_kwargs": _TIMES,
    }
    configured = fsspec.config.conf.get("s3", {})
    return {name: value for name, value in found.items() if name not in configured}


@contextmanager
def refusals() -> Iterator[None]:
    """Raise ConnectionError for what the client library raises beside OSError: no route, no credentials, a cut."""
    from aiohttp import ClientError as BrokenOff
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, BrokenOff) as error:
        if isinstance(error, OSError):
            raise
        # The name alone: messages quote addresses and, for some faults, what was sent.
        raise ConnectionError(f"the object store did not answer ({type(error).__name__})") from error


class Bucket:
    """The bucket and folder of an ``s3://`` URL. Paths are ``bucket/key``, as s3fs takes them."""

    def __init__(self, fs: "S3FileSystem", root: str) -> None:
        self._fs = fs
        self._name, _, prefix = root.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def versioning(self) -> str | None:
        """Return ``Enabled`` or ``Suspended``, or None where no object has versions. Raises OSError."""
        try:
            found: dict[str, Any] = self._fs.call_s3("get_bucket_versioning", Bucket=self._name)
        except OSError as error:
            if _code(error) in _CANNOT_VERSION:
                return None
            raise
        status = found.get("Status")
        return str(status) if status else None

    def purge(self, path: str) -> bool:
        """Delete an object with every version and broken-off upload; say whether all are absent. Raises OSError."""
        key = self._key(path)
        # Asked each time: versioning can be switched on while the service runs, and stays suspended afterwards.
        versioned = self.versioning() is not None
        if versioned:
            self._delete_versions(key)
        else:
            self._fs.call_s3("delete_object", Bucket=self._name, Key=key)
        for upload in self._uploads(key):
            if upload["Key"] == key:
                self._abort(upload)
        return self._absent(path, key, versioned=versioned)

    def abort_uploads(self, before: float) -> int:
        """Abort the uploads under the folder that began before a moment; return how many. Raises OSError."""
        old = [upload for upload in self._uploads(self._prefix) if _seconds(upload["Initiated"]) < before]
        for upload in old:
            self._abort(upload)
        return len(old)

    def _absent(self, path: str, key: str, *, versioned: bool) -> bool:
        if self._fs.exists(path) or any(upload["Key"] == key for upload in self._uploads(key)):
            return False
        return not (versioned and any(True for _ in self._versions(key)))

    def _delete_versions(self, key: str) -> None:
        found = list(self._versions(key))
        for start in range(0, len(found), _DELETED_AT_ONCE):
            some = found[start : start + _DELETED_AT_ONCE]
            objects = [{"Key": key, "VersionId": version} for version in some]
            self._fs.call_s3("delete_objects", Bucket=self._name, Delete={"Objects": objects, "Quiet": True})

    def _versions(self, key: str) -> Iterator[str]:
        """Yield the ids of an object's versions and of its deletion markers."""
        after: dict[str, str] = {}
        while True:
            page = self._fs.call_s3("list_object_versions", Bucket=self._name, Prefix=key, **after)
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            yield from (str(each["VersionId"]) for each in found if each["Key"] == key)
            if not page.get("IsTruncated"):
                return
            after = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    def _uploads(self, prefix: str) -> Iterator[dict[str, Any]]:
        after: dict[str, str] = {}
        while True:
            page = self._fs.call_s3("list_multipart_uploads", Bucket=self._name, Prefix=prefix, **after)
            yield from page.get("Uploads", [])
            if not page.get("IsTruncated"):
                return
            after = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _abort(self, upload: dict[str, Any]) -> None:
        try:
            self._fs.call_s3(
                "abort_multipart_upload", Bucket=self._name, Key=upload["Key"], UploadId=upload["UploadId"]
            )
        except FileNotFoundError:  # finished or aborted a moment ago
            return

    def _key(self, path: str) -> str:
        return path.removeprefix(f"{self._name}/")


def _code(error: OSError) -> str | None:
    response = getattr(error.__cause__, "response", None)
    return response["Error"].get("Code") if response else None


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
