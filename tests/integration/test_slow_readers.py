"""An answer that is read slowly is sent whole; one that nobody reads is cut off."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Thread
from typing import Any

import uvicorn
from starlette.responses import Response

from service import connections
from service.settings import Settings
from tests.ports import free_port

SIZE, PATIENCE = 8 << 20, 30.0


@contextmanager
def _served(**settings: Any) -> Iterator[int]:
    """Serve a long answer, which is sent in one piece, with the service's connections."""
    port, answer = free_port(), Response(b"x" * SIZE, media_type="application/octet-stream")
    options = connections.options(Settings(**settings))
    server = uvicorn.Server(uvicorn.Config(answer, port=port, lifespan="off", log_config=None, **options))
    thread = Thread(target=asyncio.run, args=(server.serve(),))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield port
    finally:
        server.force_exit = server.should_exit = True
        thread.join()


def _read(port: int, *, at_once: int, pause: float, first: float = 0.0) -> int:
    """Return how many bytes came; the buffer of this end is small, so that the other has to wait."""
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        time.sleep(first)
        count = 0
        try:
            while chunk := connection.recv(at_once):
                count += len(chunk)
                time.sleep(pause)
        except ConnectionError:
            pass
        return count


def test_an_answer_read_slowly_but_steadily_comes_whole() -> None:
    with _served(unread_seconds=1.5) as port:
        assert _read(port, at_once=131_072, pause=0.04) > SIZE


def test_an_answer_that_nobody_reads_is_cut_off() -> None:
    with _served(unread_seconds=0.3) as port:
        assert _read(port, at_once=131_072, pause=0.0, first=3.0) < SIZE
