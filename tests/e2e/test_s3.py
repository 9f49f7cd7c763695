"""The main job with the artifacts in a bucket: trained, erased, downloaded in parts, and proven absent there."""

import hashlib
from collections.abc import Iterator

import pytest

from tests.object_store import S3, fresh_bucket, s3_server
from tests.stack import Stack, running


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as address, fresh_bucket(address) as found:
        found.version_objects()  # where deleting is hardest
        yield found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, s3: S3) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("s3"), artifacts_url=s3.url) as found:
        found.register()
        found.train(epochs=3)
        yield found


def test_a_request_ends_with_the_old_weights_absent_from_the_bucket(stack: Stack, s3: S3) -> None:
    before = stack.client.get("/v1/models/m/versions/1").json()
    assert any(before["sha256"] in key for key in s3.versions())
    old = stack.client.get("/v1/models/m/versions/1/weights")
    assert hashlib.sha256(old.content).hexdigest() == before["sha256"]
    request = stack.completed(stack.erase(stack.ids(20), method_options={"epochs": 1})["id"])
    assert request["status"] == "completed"
    stack.wait("/v1/models/m/versions/1", lambda version: version["state"] == "purged")
    assert not [key for key in s3.versions() if before["sha256"] in key]
    purged = stack.client.get("/v1/audit/entries", params={"action": "version.purged"}).json()["items"][0]["payload"]
    assert (purged["store"], purged["bytes_absent"], purged["bytes_before"]) == ("s3", True, len(old.content))
    assert stack.client.get("/v1/models/m/versions/1/weights").status_code == 410


def test_a_download_is_streamed_with_ranges_and_leaves_nothing_on_the_disk(stack: Stack) -> None:
    latest = stack.client.get("/v1/models/m/versions/latest").json()
    url, size = f"/v1/models/m/versions/{latest['number']}/weights", latest["size_bytes"]
    whole = stack.client.get(url)
    assert (whole.status_code, whole.headers["content-length"]) == (200, str(size))
    assert hashlib.sha256(whole.content).hexdigest() == latest["sha256"]
    assert whole.headers["accept-ranges"] == "bytes"
    for asked, first, end in (("0-9", 0, 10), ("100-", 100, size), ("-7", size - 7, size), ("5-999999999", 5, size)):
        part = stack.client.get(url, headers={"Range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, whole.content[first:end])
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
        assert part.headers["content-length"] == str(end - first)
        assert part.headers["content-type"] == whole.headers["content-type"]
    several = stack.client.get(url, headers={"Range": "bytes=0-9,20-29"})
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert stack.client.get(url, headers={"Range": f"bytes={size}-"}).status_code == 416
    stack.until(lambda: True if not list((stack.settings.data_dir / "tmp").glob("tmp*")) else None)


def test_weights_changed_in_the_bucket_are_not_sent_whole(stack: Stack, s3: S3) -> None:
    latest = stack.client.get("/v1/models/m/versions/latest").json()
    url = f"/v1/models/m/versions/{latest['number']}/weights"
    key = next(key for key in s3.stored() if latest["sha256"] in key)
    kept = s3.client.get_object(Bucket=s3.bucket, Key=key)["Body"].read()
    s3.client.put_object(Bucket=s3.bucket, Key=key, Body=kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        with pytest.raises(Exception, match=r"peer closed|incomplete|disconnected"):
            stack.client.get(url)
    finally:
        s3.client.put_object(Bucket=s3.bucket, Key=key, Body=kept)


def test_weights_that_are_gone_from_the_bucket_are_a_problem(stack: Stack, s3: S3) -> None:
    latest = stack.client.get("/v1/models/m/versions/latest").json()
    key = next(key for key in s3.stored() if latest["sha256"] in key)
    kept = s3.client.get_object(Bucket=s3.bucket, Key=key)["Body"].read()
    s3.client.delete_object(Bucket=s3.bucket, Key=key)
    try:
        answer = stack.client.get(f"/v1/models/m/versions/{latest['number']}/weights")
        assert (answer.status_code, answer.json()["code"]) == (404, "artifact_missing")
    finally:
        s3.client.put_object(Bucket=s3.bucket, Key=key, Body=kept)
