"""The artifact store's laws in a bucket, kept by a server that speaks S3."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import bucket as bucket_module
from service.artifacts import ArtifactStore
from service.bucket import Bucket
from service.erasure_journal import Journal, Segment
from service.errors import NotFound, PreconditionFailed
from tests.object_store import S3, fresh_bucket, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(server: str) -> Iterator[S3]:
    with fresh_bucket(server) as found:
        yield found


@pytest.fixture
def store(s3: S3) -> ArtifactStore:
    return ArtifactStore(s3.url)


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "given"
    path.write_bytes(content)
    return path


def _path(store: ArtifactStore, digest: str) -> str:
    return store._path(digest).split("/", 1)[1]


@pytest.mark.parametrize("size", [0, 7, 3 * bucket_module.BLOCK])  # the last goes up in parts
def test_bytes_come_back_as_they_went_in(store: ArtifactStore, s3: S3, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    digest = store.put(_file(tmp_path, content))
    assert digest == hashlib.sha256(content).hexdigest()
    store.fetch(digest, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content
    assert store.size(digest) == size
    assert s3.stored() == [_path(store, digest)], "and nothing beside it"
    assert s3.uploads() == []


def test_putting_again_keeps_one_and_makes_it_young(store: ArtifactStore, s3: S3, tmp_path: Path) -> None:
    digest = store.put(_file(tmp_path, b"same"))
    assert store.put(_file(tmp_path, b"same")) == digest
    assert store.older_than(-60) == [digest]
    assert store.older_than(60) == []
    assert len(s3.stored()) == 1


def test_a_refused_file_stores_nothing(store: ArtifactStore, s3: S3, tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed):
        store.put(_file(tmp_path, b"x"), sha256="0" * 64)
    assert s3.stored() == []


def test_a_part_is_read_without_the_rest(store: ArtifactStore, tmp_path: Path) -> None:
    content = os.urandom(3 * bucket_module.BLOCK)
    digest = store.put(_file(tmp_path, content))
    with store.open(digest) as file:
        file.seek(2 * bucket_module.BLOCK)
        assert file.read(9) == content[2 * bucket_module.BLOCK :][:9]


def test_what_another_process_stored_or_deleted_is_seen_at_once(s3: S3, tmp_path: Path) -> None:
    one, other = ArtifactStore(s3.url), ArtifactStore(s3.url)
    digest = one.put(_file(tmp_path, b"x"))
    assert one.older_than(-60) == [digest]
    assert other.purge(digest)
    s3.client.put_object(Bucket=s3.bucket, Key=f"artifacts/sha256/ff/{'f' * 64}", Body=b"y")
    assert one.size(digest) is None
    assert one.older_than(-60) == ["f" * 64]


def test_purged_bytes_are_absent_and_purging_again_is_fine(store: ArtifactStore, s3: S3, tmp_path: Path) -> None:
    digest, kept = store.put(_file(tmp_path, b"secret")), store.put(_file(tmp_path, b"other"))
    assert store.purge(digest)
    assert store.purge(digest)
    assert store.size(digest) is None
    assert s3.stored() == [_path(store, kept)]
    with pytest.raises(NotFound), store.open(digest):
        pass


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_no_version_of_purged_bytes_stays(store: ArtifactStore, s3: S3, tmp_path: Path, status: str) -> None:
    s3.version_objects()
    digest, kept = store.put(_file(tmp_path, b"secret")), store.put(_file(tmp_path, b"other"))
    store.put(_file(tmp_path, b"secret"))
    if status == "Enabled":  # deleted as another tool would, which leaves a marker; moto cannot delete it suspended
        s3.client.delete_object(Bucket=s3.bucket, Key=_path(store, digest))
    s3.version_objects(status)
    assert s3.versions().count(_path(store, digest)) == 2 + (status == "Enabled")
    assert store.versioning() == status
    assert store.purge(digest)
    assert s3.versions() == [_path(store, kept)]


def test_a_version_that_cannot_be_deleted_is_not_called_absent(
    store: ArtifactStore, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.version_objects()
    digest = store.put(_file(tmp_path, b"secret"))
    # A lock on objects refuses each version in the answer's body, not by an error; the marker alone is then written.
    monkeypatch.setattr(
        bucket_module.Bucket,
        "_delete_versions",
        lambda _, key: s3.client.delete_object(Bucket=s3.bucket, Key=key),
    )
    assert not store.purge(digest)
    assert store.size(digest) is None, "it looks absent, and is not"


def test_versions_that_may_not_be_asked_for_are_not_called_absent(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put(_file(tmp_path, b"secret"))

    def refused(self: bucket_module.Bucket) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(bucket_module.Bucket, "versioning", refused)
    with pytest.raises(PermissionError):
        store.purge(digest)


def test_a_probe_leaves_no_version_and_no_file(store: ArtifactStore, s3: S3) -> None:
    s3.version_objects()
    assert store.writable()
    assert s3.versions() == []


def test_uploads_broken_off_are_removed_once_they_are_old(
    store: ArtifactStore, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put(_file(tmp_path, b"kept"))
    for key in ("artifacts/sha256/00/" + "0" * 64, "elsewhere/x"):
        begun = s3.client.create_multipart_upload(Bucket=s3.bucket, Key=key)
        s3.client.upload_part(Bucket=s3.bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"weights")
    with monkeypatch.context() as young:  # moto says of every upload that it began in 2010
        young.setattr(bucket_module, "_seconds", lambda _: time.time())
        assert store.remove_parts(60) == 0
    assert store.remove_parts(60) == 1
    assert s3.uploads() == ["elsewhere/x"], "what is outside the folder is not ours"
    assert store.size(digest) == 4


def test_a_purge_aborts_the_uploads_of_its_digest(store: ArtifactStore, s3: S3, tmp_path: Path) -> None:
    digest = store.put(_file(tmp_path, b"secret"))
    s3.client.create_multipart_upload(Bucket=s3.bucket, Key=_path(store, digest))
    assert store.purge(digest)
    assert s3.uploads() == []


def test_what_a_put_by_another_release_left_is_removed(store: ArtifactStore, s3: S3) -> None:
    assert store.remove_parts(-60) == 0
    for name in ("part-old", "probe-old"):
        s3.client.put_object(Bucket=s3.bucket, Key=f"artifacts/{name}", Body=b"weights")
    assert store.remove_parts(-60) == 2
    assert s3.stored() == []


def test_a_missing_bucket_is_not_made_and_is_not_writable(s3: S3) -> None:
    store = ArtifactStore("s3://no-such-bucket-here/artifacts")
    assert not store.writable()
    with pytest.raises(FileNotFoundError):
        store.probe()
    assert [each["Name"] for each in s3.client.list_buckets()["Buckets"] if "no-such" in each["Name"]] == []


def test_a_store_that_does_not_answer_is_an_os_error(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = ArtifactStore(s3.url + "/unreachable")
    store._fs.retries = 1
    digest = "0" * 64
    assert not store.writable()
    for ask in (
        lambda: store.put(_file(tmp_path, b"x")),
        lambda: store.size(digest),
        lambda: store.purge(digest),
        lambda: store.older_than(0),
        lambda: store.remove_parts(0),
        lambda: store.fetch(digest, tmp_path / "y"),
    ):
        with pytest.raises(OSError, match=r".*"):
            ask()


def test_the_erasure_journal_can_lie_in_a_bucket_and_no_segment_is_written_twice(s3: S3) -> None:
    journal = Journal(f"s3://{s3.bucket}/journal", b"k" * 32)
    assert journal.last() is None
    first = Segment(number=1, first=0, end=0, last_leaf="", tokens=[("ds_1", "ab")])
    journal.append(first)
    assert (last := journal.last()) is not None
    assert last.tokens == first.tokens
    with pytest.raises(FileExistsError):
        journal.append(Segment(number=1, first=0, end=0, last_leaf="", tokens=[("ds_1", "cd")]))
    assert journal.read(1).tokens == [("ds_1", "ab")]
    with pytest.raises(PreconditionFailed):
        Journal(f"s3://{s3.bucket}/journal", b"x" * 32).read(1)
    journal.append(Segment(number=2, first=0, end=0, last_leaf=""))
    assert journal.remove_before(2) == 1
    assert journal.numbers() == [2]


def test_several_threads_share_one_store(store: ArtifactStore, s3: S3, tmp_path: Path) -> None:
    digests: dict[int, str] = {}

    def work(number: int) -> None:
        path = tmp_path / str(number)
        path.write_bytes(bytes([number]) * 1000)
        digests[number] = store.put(path)
        store.fetch(digests[number], tmp_path / f"{number}.back")
        if number % 2:
            store.purge(digests[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 8
    assert len(s3.stored()) == 4


def test_a_probe_of_the_journal_leaves_nothing_and_where_deleting_is_refused_one_object_alone(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> bool:
        raise PermissionError

    s3.version_objects()
    journal = Journal(f"s3://{s3.bucket}/journal", b"k" * 32)
    journal.probe()
    assert s3.versions() == []
    monkeypatch.setattr(Bucket, "purge", refused)
    for _ in range(3):
        journal.probe()
    assert s3.versions() == ["journal/probe"]
