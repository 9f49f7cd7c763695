"""HTTP connections that end in time: a head that drips in, a body nobody wants, an answer nobody reads.

What is read of a body is timed where it is read (`service.body_limit`), because only that place knows whether the
client or the service is the slow one.
"""

import asyncio
import fcntl
import json
import struct
import termios
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.problems import MEDIA_TYPE, problem
from service.settings import Settings

MOST_HEAD_BYTES = 65_536
_REASONS = {400: "Bad Request", 408: "Request Timeout"}


def options(settings: Settings) -> dict[str, Any]:
    """Return what uvicorn is given so that connections keep to the limits of the settings."""

    class Connection(TimedConnection):
        head_seconds = settings.head_seconds
        unread_seconds = settings.unread_seconds

    return {
        "http": Connection,
        "ws": "none",
        "limit_concurrency": settings.max_connections,
    }


class BoundedHead(h11.Connection):
    """Refuses a head by its own length; the library looks at what is incomplete alone, so at no head read at once."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        before = len(self.trailing_data[0]) if self.their_state is h11.IDLE else 0
        event = super().next_event()
        if isinstance(event, h11.Request) and before - len(self.trailing_data[0]) > MOST_HEAD_BYTES:
            raise h11.RemoteProtocolError("Request head too long", error_status_hint=431)
        return event


class TimedConnection(H11Protocol):
    """Uvicorn's connection, closed where it waits too long for the client."""

    head_seconds: float
    unread_seconds: float
    _head_due: asyncio.TimerHandle | None = None
    _read_due: asyncio.TimerHandle | None = None
    _untaken_before = 0

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.conn = BoundedHead(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def _watch_head(self) -> None:
        """Give the client its time from the first moment it owes a head; what drips in meanwhile does not renew it."""
        theirs, ours = self.conn.their_state, self.conn.our_state
        # The rest of a body that was answered already is thrown away, but not for ever.
        unwanted = theirs is h11.SEND_BODY and ours in (h11.DONE, h11.MUST_CLOSE)
        if not (theirs is h11.IDLE or unwanted):
            self._head_due = _cancelled(self._head_due)
        elif self._head_due is None:
            self._head_due = self.loop.call_later(self.head_seconds, self._give_up_on_head)

    def _give_up_on_head(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self.transport.write(_answer(408, "request_too_slow", "The request's head came too slowly."))
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_due = _cancelled(self._read_due)  # that of an answer before, whose rest has gone meanwhile
        self._watch_reader()

    def resume_writing(self) -> None:
        self._read_due = _cancelled(self._read_due)
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._watch_reader()

    def _watch_reader(self) -> None:
        if self._read_due is None:
            self._untaken_before = self._untaken()
            self._read_due = self.loop.call_later(self.unread_seconds, self._give_up_on_reader)

    def _give_up_on_reader(self) -> None:
        self._read_due = None
        if not self.transport.get_write_buffer_size():
            return
        if self._untaken() < self._untaken_before:  # slow, but it reads
            self._watch_reader()
        else:
            # To close would be to wait for the very client that does not read.
            self.transport.abort()

    def _untaken(self) -> int:
        """Return how many bytes the client has not taken, in the buffers of this process and of the kernel."""
        held: int = self.transport.get_write_buffer_size()
        try:
            told = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # not every system tells of sockets
            return held
        return held + int(struct.unpack("i", told)[0])

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_due, self._read_due = _cancelled(self._head_due), _cancelled(self._read_due)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or has too long a head, with a problem as all else."""
        detail = f"{msg.removesuffix('.')}; its head has {MOST_HEAD_BYTES} bytes at most."
        self.transport.write(_answer(400, "bad_request", detail))
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Return no timer in place of the one given, which will not go off any more."""
    if timer is not None:
        timer.cancel()
    return None


def _answer(status: int, code: str, detail: str) -> bytes:
    body = json.dumps(problem(status, code, _REASONS[status], detail)).encode()
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body
