"""One POST to an address that was judged: no second look-up, no redirect, no proxy, no time beyond the limit.

The host's name stays in the Host header, in TLS's server name and in the certificate's check; only the connection goes
to the address. The answer's status and `Retry-After` are read, its body is not.
"""

import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpcore

from service.webhooks.targets import Address, Target

_SocketOptions = Iterable[Any] | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    retry_after: str | None


class NotAnswered(Exception):
    """No whole answer came; ``code`` says what went wrong."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def post(
    target: Target, body: bytes, headers: Mapping[str, str], *, seconds: float, ssl_context: ssl.SSLContext
) -> Answer:
    """Send the body within so many seconds in all, and return what was answered. Raises NotAnswered."""
    url = target.url
    address = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    named = {"Host": url.netloc.decode("ascii"), "Connection": "close", **headers}
    backend = _Pinned(target.addresses, time.monotonic() + seconds)
    try:
        with (
            httpcore.ConnectionPool(ssl_context=ssl_context, network_backend=backend, max_connections=1) as pool,
            pool.stream("POST", address, headers=list(named.items()), content=body) as response,
        ):
            found = {name.lower(): value for name, value in response.headers}
            return Answer(status=response.status, retry_after=_text(found.get(b"retry-after")))
    except httpcore.TimeoutException:
        raise NotAnswered("timeout") from None
    except _TlsFailed:
        raise NotAnswered("tls_failed") from None
    except httpcore.NetworkError:
        raise NotAnswered("connection_failed") from None
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol):
        raise NotAnswered("answer_malformed") from None


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value is not None else None


class _TlsFailed(httpcore.ConnectError):
    """The receiver's certificate is not valid for the name, or TLS failed otherwise."""


class _Pinned(httpcore.NetworkBackend):
    """Connects to the given addresses, in turn, whatever host is asked for, and ends everything at the deadline."""

    def __init__(self, addresses: Sequence[Address], deadline: float) -> None:
        self._addresses, self._deadline, self._sockets = addresses, deadline, httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - what it stands for was looked up and judged before
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline is what counts
        local_address: str | None = None,
        socket_options: _SocketOptions = None,
    ) -> httpcore.NetworkStream:
        failure: httpcore.NetworkError | None = None
        for address in self._addresses:
            left = _left(self._deadline, httpcore.ConnectTimeout)
            try:
                stream = self._sockets.connect_tcp(address, port, left, local_address, socket_options)
            except httpcore.ConnectError as error:
                failure = error
                continue
            return _Timed(stream, self._deadline)
        raise failure or httpcore.ConnectError("there is no address to connect to")


class _Timed(httpcore.NetworkStream):
    """A stream whose every step has what is left until the deadline: a receiver that drips bytes gains no time."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, _left(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, _left(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline, httpcore.ConnectTimeout)
        try:
            return _Timed(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)
        except httpcore.ConnectError as error:
            raise _TlsFailed from error

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, late: type[httpcore.TimeoutException]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise late
    return left
