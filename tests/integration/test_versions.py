"""Downloads by the letter of RFC 9110 and RFC 9530, and which states are served at all."""

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.artifacts import ArtifactStore
from service.lifecycle import VersionState
from service.store import versions
from service.store.tables import Version
from tests import factories
from tests.stack import Stack, running

URL = "/v1/models/m/versions/1/weights"
SIZE = 4096


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("versions"), worker=False) as found:
        factories.dataset(found)
        factories.model(found)
        factories.version(found)
        yield found


@pytest.fixture(scope="module")
def whole(stack: Stack) -> httpx.Response:
    return stack.client.get(URL).raise_for_status()


def _problem(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def test_the_headers_tell_the_digest_and_the_length_of_the_bytes(stack: Stack, whole: httpx.Response) -> None:
    digest = hashlib.sha256(whole.content)
    assert whole.headers["etag"] == f'"sha256:{digest.hexdigest()}"'
    assert whole.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert whole.headers["content-length"] == str(len(whole.content)) == str(SIZE)
    assert whole.headers["accept-ranges"] == "bytes"
    version = stack.client.get("/v1/models/m/versions/1").json()
    assert (version["sha256"], version["size_bytes"]) == (digest.hexdigest(), SIZE)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-", 10, SIZE), ("bytes=-5", SIZE - 5, SIZE), ("bytes=4090-9999", 4090, SIZE)],
)
def test_a_range_is_those_bytes(stack: Stack, whole: httpx.Response, asked: str, start: int, end: int) -> None:
    part = stack.client.get(URL, headers={"Range": asked})
    assert part.status_code == 206
    assert part.content == whole.content[start:end]
    assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert part.headers["content-length"] == str(end - start)
    assert part.headers["repr-digest"] == whole.headers["repr-digest"], "the digest is the whole file's"


def test_several_ranges_come_as_parts(stack: Stack, whole: httpx.Response) -> None:
    part = stack.client.get(URL, headers={"Range": "bytes=0-9,100-109"})
    assert part.status_code == 206
    assert part.headers["content-type"].startswith("multipart/byteranges")
    assert whole.content[:10] in part.content
    assert whole.content[100:110] in part.content
    assert int(part.headers["content-length"]) == len(part.content)


@pytest.mark.parametrize(
    "asked", ["lines=1-2", "bytes=abc", "bytes=5-2", "bytes=", "bytes=-", "bytes=1-2-3", "bytes=٣-٤"]
)
def test_what_is_no_range_is_ignored(stack: Stack, whole: httpx.Response, asked: str) -> None:
    answer = stack.client.get(URL, headers=[(b"Range", asked.encode())])
    assert (answer.status_code, answer.content) == (200, whole.content)


@pytest.mark.parametrize("asked", ["bytes=4096-", "bytes=9999-10000", "bytes=-0"])
def test_a_range_outside_the_file_is_a_problem_and_no_download(stack: Stack, asked: str) -> None:
    before = _downloads(stack)
    answer = stack.client.get(URL, headers={"Range": asked})
    assert _problem(answer, 416)["code"] == "range_not_satisfiable"
    assert answer.headers["content-range"] == f"bytes */{SIZE}"
    assert _downloads(stack) == before


def test_if_range_with_another_tag_sends_the_whole(stack: Stack, whole: httpx.Response) -> None:
    tag = whole.headers["etag"]
    for stated, status in ((tag, 206), ('"other"', 200), (f"W/{tag}", 200)):
        answer = stack.client.get(URL, headers={"Range": "bytes=0-9", "If-Range": stated})
        assert answer.status_code == status
    answer = stack.client.get(URL, headers={"Range": "bytes=9999-", "If-Range": '"other"'})
    assert (answer.status_code, len(answer.content)) == (200, SIZE)


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_if_none_match_knows_every_form_of_the_tag(stack: Stack, whole: httpx.Response, form: str) -> None:
    before = _downloads(stack)
    answer = stack.client.get(URL, headers={"If-None-Match": form.format(whole.headers["etag"])})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == whole.headers["etag"]
    assert _downloads(stack) == before
    assert stack.client.get(URL, headers={"If-None-Match": '"other"'}).status_code == 200


def test_head_is_get_without_bytes_ranges_or_record(stack: Stack, whole: httpx.Response) -> None:
    before = _downloads(stack)
    head = stack.client.head(URL, headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.content) == (200, b"")
    for header in ("etag", "repr-digest", "content-length", "accept-ranges", "content-type", "cache-control"):
        assert head.headers[header] == whole.headers[header]
    assert _downloads(stack) == before


def test_each_download_is_audited_with_who_what_and_which_bytes(stack: Stack, whole: httpx.Response) -> None:
    before = _downloads(stack)
    stack.client.get(URL, headers={"Range": "bytes=5-6"})
    entries = stack.client.get("/v1/audit/entries", params={"version": "m/1", "action": "version.downloaded"}).json()
    assert len(entries["items"]) == before + 1
    last = entries["items"][-1]
    digest = hashlib.sha256(whole.content).hexdigest()
    assert last["payload"] == {"sha256": digest, "range": "bytes=5-6"}
    assert last["subject"] == "model/m/version/1"
    assert last["actor"].startswith("key_")


def _downloads(stack: Stack) -> int:
    params = {"action": "version.downloaded", "limit": "1000"}
    return len(stack.client.get("/v1/audit/entries", params=params).json()["items"])


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ((VersionState.QUARANTINED,), 403, "version_quarantined"),
        ((VersionState.RETIRED,), 410, "version_retired"),
        ((VersionState.RETIRED, VersionState.PURGED), 410, "version_retired"),
        ((VersionState.QUARANTINED, VersionState.RETIRED), 410, "version_retired"),
    ],
)
def test_what_is_out_of_circulation_is_refused_by_get_and_head(
    stack: Stack, path: tuple[VersionState, ...], status: int, code: str
) -> None:
    row = factories.version(stack)
    with stack.database.writing() as session:
        for state in path:
            versions.move(session, session.get_one(Version, row.id), state)
    url = f"/v1/models/m/versions/{row.number}/weights"
    tag = f'"sha256:{row.sha256}"'
    for headers in ({}, {"Range": "bytes=0-9"}, {"If-None-Match": tag}):
        problem = _problem(stack.client.get(url, headers=headers), status)
        assert problem["code"] == code
    if status == 410:
        assert problem["latest"] == "/v1/models/m/versions/latest"
        assert problem["retired_at"]
    assert stack.client.head(url).status_code == status
    assert stack.client.get("/v1/models/m/versions/latest").json()["number"] < row.number


@pytest.mark.parametrize("state", [VersionState.REJECTED, VersionState.PURGED])
def test_a_version_that_a_restore_lost_is_gone_and_not_called_rejected(stack: Stack, state: VersionState) -> None:
    row = factories.version(stack, state=VersionState.VALIDATING)
    with stack.database.writing() as session:
        lost = session.get_one(Version, row.id)
        lost.state, lost.error = state, {"code": versions.LOST_IN_RESTORE, "detail": "…"}
    url = f"/v1/models/m/versions/{row.number}/weights"
    problem = _problem(stack.client.get(url), 410)
    assert (problem["code"], problem["latest"]) == ("version_lost", "/v1/models/m/versions/latest")
    assert stack.client.head(url).status_code == 410


def test_no_download_is_recorded_after_the_retirement(stack: Stack) -> None:
    for _ in range(4):
        row = factories.version(stack)
        url = f"/v1/models/m/versions/{row.number}/weights"
        with ThreadPoolExecutor(4) as pool:
            downloads = [pool.submit(stack.client.get, url) for _ in range(24)]
            downloads[4].result()
            with stack.database.writing() as session:
                versions.move(session, session.get_one(Version, row.id), VersionState.RETIRED)
            statuses = [download.result().status_code for download in downloads]
        assert set(statuses) <= {200, 410}
        entries = stack.client.get("/v1/audit/entries", params={"version": f"m/{row.number}", "limit": 1000}).json()
        actions = [entry["action"] for entry in entries["items"]]
        assert actions[-1] == "version.retired"
        assert actions.count("version.downloaded") == statuses.count(200)


def test_bytes_missing_from_the_store_are_a_problem_not_a_crash(stack: Stack) -> None:
    row = factories.version(stack)
    ArtifactStore(stack.settings.resolved_artifacts_url).purge(row.sha256)
    answer = stack.client.get(f"/v1/models/m/versions/{row.number}/weights")
    assert _problem(answer, 404)["code"] == "artifact_missing"
