"""A request's head has 65,536 bytes at most, however it is cut into reads and whatever comes after it."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import httpx
import pytest

from service.connections import MOST_HEAD_BYTES
from tests.stack import Stack, running

# What a busy machine may take.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("heads"), worker=False) as found:
        yield found


def _head(size: int, *, url: int = 0, more: str = "") -> bytes:
    """Return a head of exactly so many bytes, so many of them in the URL's query."""
    start = f"GET /healthz?{'u' * url} HTTP/1.1\r\nHost: x\r\n{more}X-Long: ".encode()
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


def _at_once(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)


def _dribbled(connection: socket.socket, data: bytes) -> None:
    """Send small parts, each read by itself."""
    for at in range(0, len(data), 9_001):
        connection.sendall(data[at : at + 9_001])
        time.sleep(0.01)


def _last_byte_alone(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data[:-1])
    time.sleep(0.3)
    connection.sendall(data[-1:])


Send = Callable[[socket.socket, bytes], None]
WAYS = pytest.mark.parametrize("send", [_at_once, _dribbled, _last_byte_alone])


def _answers(stack: Stack, send: Send, data: bytes, count: int = 1) -> bytes:
    """Return what comes, so many answers or until the connection is closed."""
    with closing(socket.create_connection(("127.0.0.1", httpx.URL(stack.base_url).port or 0), PATIENCE)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        came = b""
        with suppress(ConnectionError):  # refused while the rest was on its way
            send(connection, data)
        with suppress(ConnectionError):
            while came.count(b"HTTP/1.1 ") < count and (chunk := connection.recv(65_536)):
                came += chunk
            while b"HTTP/1.1 400 " in came and (chunk := connection.recv(65_536)):
                came += chunk
        return came


def _refused(came: bytes) -> bool:
    head, _, body = came.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 400 "):
        return False
    problem = json.loads(body)
    return problem["code"] == "bad_request" and "65536 bytes" in problem["detail"]


@WAYS
@pytest.mark.parametrize("url", [0, 60_000])
def test_a_head_at_the_limit_is_answered(stack: Stack, send: Send, url: int) -> None:
    assert _answers(stack, send, _head(MOST_HEAD_BYTES, url=url)).startswith(b"HTTP/1.1 200 ")


@WAYS
@pytest.mark.parametrize(
    ("size", "url"),
    [(MOST_HEAD_BYTES + 1, 0), (66_000, 0), (100_000, 0), (70_200, 70_000), (70_000, 40_000)],
)
def test_a_head_over_the_limit_is_refused_and_the_connection_closed(
    stack: Stack, send: Send, size: int, url: int
) -> None:
    assert _refused(_answers(stack, send, _head(size, url=url)))
    assert stack.client.get("/healthz").status_code == 200


def test_a_body_read_with_its_head_does_not_count(stack: Stack) -> None:
    body = b" " * 100_000
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    assert _answers(stack, _at_once, head + body).startswith(b"HTTP/1.1 404 ")


def test_heads_of_requests_one_after_another_count_each_by_itself(stack: Stack) -> None:
    short, long = _head(50_000), _head(66_000)
    assert _answers(stack, _at_once, short + short, 2).count(b"HTTP/1.1 200 ") == 2
    came = _answers(stack, _at_once, short + long, 2)
    assert came.startswith(b"HTTP/1.1 200 ")
    assert _refused(came[came.rindex(b"HTTP/1.1 ") :])
