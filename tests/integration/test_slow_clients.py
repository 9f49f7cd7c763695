"""Clients that drip, lie or never read, on real sockets: each is cut off in a stated time, and others are served."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import insert

from service.store.tables import Event, table_of
from service.store.types import now
from tests import factories
from tests.stack import Stack, running

HEAD_SECONDS, BODY_SECONDS, UNREAD_SECONDS = 2.0, 2.0, 3.0
# What a busy machine may take beyond a limit.
PATIENCE = 60.0
SETTINGS = {
    "head_seconds": str(HEAD_SECONDS),
    "body_seconds": str(BODY_SECONDS),
    "body_bytes_per_second": "1000000",
    "unread_seconds": str(UNREAD_SECONDS),
    "max_body_bytes": "200000",
    "max_streams": "12",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("slow"), worker=False, **SETTINGS) as found:
        factories.dataset(found)
        factories.model(found)
        factories.version(found)
        yield found


def _connected(stack: Stack) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", httpx.URL(stack.base_url).port or 0), timeout=PATIENCE)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def _head(stack: Stack, start: str = "POST /v1/deletion-requests", *more: str) -> bytes:
    lines = [f"{start} HTTP/1.1", "Host: x", f"Authorization: {stack.client.headers['Authorization']}"]
    return "\r\n".join([*lines, "Content-Type: application/json", *more, "", ""]).encode()


def _until_closed(connection: socket.socket) -> bytes:
    """Return what came until the other side closed."""
    came = b""
    try:
        while chunk := connection.recv(65_536):
            came += chunk
    except ConnectionError:
        pass
    return came


def _dripped(stack: Stack, start: bytes, drip: bytes) -> bytes:
    """Send the start, then drip for ever; return what came until the connection was closed."""
    with closing(_connected(stack)) as connection:
        connection.sendall(start)
        connection.settimeout(0.2)
        came, end = b"", time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                connection.sendall(drip)
                chunk = connection.recv(65_536)
                if not chunk:
                    return came
                came += chunk
            except TimeoutError:
                continue
            except ConnectionError:
                return came
    pytest.fail(f"still open after {PATIENCE} s")


def _answer(raw: bytes) -> tuple[int, Any]:
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, raw[:500]
    return int(head.split()[1]), json.loads(body)


def test_a_head_that_drips_in_is_answered_408_and_closed(stack: Stack) -> None:
    status, problem = _answer(_dripped(stack, b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"X-Drip: 1\r\n"))
    assert (status, problem["code"]) == (408, "request_too_slow")


@pytest.mark.parametrize("drip", [b"\r\n", b""])
def test_who_connects_and_says_nothing_is_cut_off(stack: Stack, drip: bytes) -> None:
    assert b"HTTP/1.1 200" not in _dripped(stack, b"", drip)


@pytest.mark.parametrize("length", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_a_body_that_drips_in_is_answered_408_and_closed(stack: Stack, length: str) -> None:
    drip = b" " if length.startswith("Content") else b"1\r\n \r\n"
    status, problem = _answer(_dripped(stack, _head(stack, "POST /v1/deletion-requests", length), drip))
    assert (status, problem["code"]) == (408, "body_too_slow")


def test_an_upload_that_drips_in_is_answered_408_and_leaves_no_file(stack: Stack) -> None:
    lines = [
        "POST /v1/models/m/versions HTTP/1.1",
        "Host: x",
        f"Authorization: {stack.client.headers['Authorization']}",
    ]
    lines += ["Content-Type: application/vnd.safetensors", "Content-Length: 1000000", "", ""]
    status, problem = _answer(_dripped(stack, "\r\n".join(lines).encode(), b"x"))
    assert (status, problem["code"]) == (408, "body_too_slow")
    assert list((stack.settings.data_dir / "tmp").iterdir()) == []


def test_a_body_that_comes_steadily_may_take_longer_than_the_wait(stack: Stack) -> None:
    """The bytes' own time counts apart; this client is slow, but not slower than the pace."""
    body = json.dumps({"dataset": "d", "sample_ids": ["d-train-1"]}).encode()
    with closing(_connected(stack)) as connection:
        connection.sendall(_head(stack, "POST /v1/deletion-requests/preview", f"Content-Length: {len(body)}"))
        time.sleep(BODY_SECONDS / 4)
        connection.sendall(body)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_body_after_its_answer_is_not_listened_to_for_ever(stack: Stack) -> None:
    start = b"POST /v1/deletion-requests HTTP/1.1\r\nHost: x\r\nContent-Length: 150000\r\n\r\n"
    came = _dripped(stack, start.replace(b"POST /v1/deletion-requests", b"POST /nowhere"), b" ")
    assert came.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-Many: 1\r\n" * 20_000 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked, x\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"\x16\x03\x01 no HTTP at all\r\n\r\n",
    ],
)
def test_a_head_that_is_too_long_or_no_http_is_a_problem(stack: Stack, head: bytes) -> None:
    with closing(_connected(stack)) as connection:
        try:
            connection.sendall(head)
        except ConnectionError:
            return  # closed while the rest was on its way
        came = _until_closed(connection)
    if came:  # the client of a closed connection may find nothing left to read
        status, problem = _answer(came)
        assert (status, problem["code"]) == (400, "bad_request")
    assert stack.client.get("/healthz").status_code == 200


def test_chunks_without_end_are_refused_at_the_limit(stack: Stack) -> None:
    chunk = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    with closing(_connected(stack)) as connection:
        connection.sendall(_head(stack, "POST /v1/deletion-requests", "Transfer-Encoding: chunked"))
        connection.settimeout(PATIENCE)
        for _ in range(40):
            connection.sendall(chunk)
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_body_shorter_than_announced_stores_nothing(stack: Stack) -> None:
    body = json.dumps({"dataset": "d", "sample_ids": ["d-train-2"]}).encode()
    before = len(stack.client.get("/v1/deletion-requests").json()["items"])
    with closing(_connected(stack)) as connection:
        connection.sendall(_head(stack, "POST /v1/deletion-requests", f"Content-Length: {len(body) + 5}") + body)
        connection.shutdown(socket.SHUT_WR)
        _until_closed(connection)
    assert len(stack.client.get("/v1/deletion-requests").json()["items"]) == before
    assert "request.failed" not in stack.log.read_text()


def test_many_slow_clients_leave_the_service_to_others(stack: Stack) -> None:
    slow = [_connected(stack) for _ in range(60)]
    try:
        for index, connection in enumerate(slow):
            start = b"GET / HTTP/1.1\r\n" if index % 2 else _head(stack, "POST /v1/models", "Content-Length: 9000")
            connection.sendall(start)
        for _ in range(5):
            assert stack.client.get("/v1/datasets").status_code == 200
            assert stack.client.get("/healthz").status_code == 200
        for connection in slow:
            _until_closed(connection)
    finally:
        for connection in slow:
            connection.close()


def _asked(stack: Stack, number: int) -> str:
    body = {"dataset": "d", "sample_ids": [f"d-train-{number}"], "method": "finetune"}
    return str(stack.client.post("/v1/deletion-requests", json=body).raise_for_status().json()["id"])


def _events(stack: Stack, request_id: str, count: int, *, size: int = 10) -> None:
    """Add events of a request, as long as wanted."""
    rows = [
        {"request_id": request_id, "job_id": None, "name": "attempt", "data": {"n": n, "x": "x" * size}, "time": now()}
        for n in range(count)
    ]
    with stack.database.writing() as session:
        session.execute(insert(table_of(Event)), rows)


def _ids(answer: httpx.Response, count: int) -> list[int]:
    found: list[int] = []
    for line in answer.iter_lines():
        if match := re.fullmatch(r"id: (\d+)", line):
            found.append(int(match[1]))
        if len(found) == count:
            break
    return found


def _stream(stack: Stack, request_id: str, count: int, last: object = None) -> list[int]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with stack.client.stream("GET", f"/v1/deletion-requests/{request_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        return _ids(answer, count)


def test_a_stream_resumed_at_any_event_gives_exactly_those_after_it(stack: Stack) -> None:
    request_id = _asked(stack, 10)
    _events(stack, request_id, 450)  # more than one look takes
    every = _stream(stack, request_id, 451)
    assert every == sorted(set(every))
    for at in (0, 1, 199, 200, 250, 449):
        assert _stream(stack, request_id, 450 - at, last=every[at]) == every[at + 1 :]


@pytest.mark.parametrize("last", ["", "x", "-1", "1e3", "²", "1 OR 1=1"])
def test_what_is_no_id_of_an_event_is_ignored(stack: Stack, last: str) -> None:
    request_id = _asked(stack, 11) if last == "" else stack.keys["eleven"]
    stack.keys["eleven"] = request_id
    headers = [(b"Last-Event-ID", last.encode("latin-1"))]
    with stack.client.stream("GET", f"/v1/deletion-requests/{request_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert len(_ids(answer, 1)) == 1


@pytest.mark.parametrize("last", ["9" * 19, "9" * 4000])
def test_an_event_id_longer_than_any_is_a_problem(stack: Stack, last: str) -> None:
    answer = stack.client.get(f"/v1/deletion-requests/{_asked(stack, 11)}/events", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_clients_that_never_read_hold_little_memory_and_are_cut_off(stack: Stack) -> None:
    request_id = _asked(stack, 12)
    process = psutil.Process(stack.api.pid)
    _events(stack, request_id, 4000, size=4000)  # 16 MB, more than the kernel's buffers take for a client
    before, silent = process.memory_info().rss, []
    for _ in range(10):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", httpx.URL(stack.base_url).port or 0))
        connection.sendall(_head(stack, f"GET /v1/deletion-requests/{request_id}/events"))
        silent.append(connection)
    try:
        ports = {connection.getsockname()[1] for connection in silent}
        most, begun = 0, time.monotonic()
        while time.monotonic() < begun + PATIENCE:
            most = max(most, process.memory_info().rss)
            held = {each.raddr.port for each in process.net_connections("tcp") if each.raddr}
            assert stack.client.get("/v1/datasets").status_code == 200
            if time.monotonic() > begun + UNREAD_SECONDS and not held & ports:
                break
            time.sleep(0.2)
        else:
            pytest.fail("the connections are still held")
    finally:
        for connection in silent:
            connection.close()
    assert most - before < 100 * 2**20, f"{(most - before) / 2**20:.0f} MiB more"


def test_more_streams_than_the_limit_are_refused_and_ended_ones_make_room(stack: Stack) -> None:
    request_id = _asked(stack, 13)
    path = f"/v1/deletion-requests/{request_id}/events"
    opened = []
    try:
        for _ in range(int(SETTINGS["max_streams"])):
            connection = _connected(stack)
            connection.sendall(_head(stack, f"GET {path}"))
            assert connection.recv(12) == b"HTTP/1.1 200"
            opened.append(connection)
        answer = stack.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_streams")
        assert stack.client.get("/v1/datasets").status_code == 200
    finally:
        for connection in opened:
            connection.close()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with stack.client.stream("GET", path) as answer:
            if answer.status_code == 200:
                return
        time.sleep(0.2)
    pytest.fail("streams whose clients have gone are still counted")


def test_a_stream_ends_after_its_time_and_resumes_across_a_restart(tmp_path: Path) -> None:
    with running(tmp_path, worker=False, stream_seconds="1") as first:
        factories.dataset(first)
        factories.model(first)
        factories.version(first)
        request_id = _asked(first, 0)
        _events(first, request_id, 5)
        seen = _stream(first, request_id, 10_000)  # to its end
    with running(tmp_path, worker=False, stream_seconds="1") as second:
        _events(second, request_id, 5)
        more = _stream(second, request_id, 10_000, last=seen[-1])
        assert _stream(second, request_id, 10_000) == seen + more
    assert len(seen) >= 5
    assert len(more) == 5
