"""A call goes to the judged address under the host's own name, ends in time, and follows no redirect."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.webhooks import connection
from service.webhooks.connection import Answer, NotAnswered
from service.webhooks.targets import Allowed, Guard, Target
from tests.receiver import Authority, authority, receiving

HOST = "hooks.test"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


def _target(url: str, *addresses: str) -> Target:
    guard = Guard(allowed=Allowed.parse(HOST), resolver=lambda *_: addresses or ("127.0.0.1",))
    return guard.target(url)


def _post(target: Target, context: ssl.SSLContext | None = None, seconds: float = 10) -> Answer:
    given = context or ssl.create_default_context()
    return connection.post(target, b"{}", {"Content-Type": "application/json"}, seconds=seconds, ssl_context=given)


def _code(target: Target, context: ssl.SSLContext | None = None, seconds: float = 10) -> str:
    with pytest.raises(NotAnswered) as failure:
        _post(target, context, seconds)
    return failure.value.code


def test_the_call_goes_to_the_judged_address_under_the_hosts_name() -> None:
    with receiving() as receiver:
        # No resolver of this machine knows the name: the connection can only have gone to the address.
        target = _target(f"http://{HOST}:{receiver.port}/a/b?c=d")
        assert _post(target) == Answer(status=204, retry_after=None)
    (call,) = receiver.calls
    assert (call.path, call.headers["host"], call.body) == ("/a/b?c=d", f"{HOST}:{receiver.port}", b"{}")


def test_tls_asks_for_the_hosts_name_and_checks_the_certificate_against_it(issuer: Authority) -> None:
    asked: list[str | None] = []
    server = issuer.server_context(HOST)
    server.sni_callback = lambda _, name, __: asked.append(name)
    with receiving(server) as receiver:
        target = _target(f"https://{HOST}:{receiver.port}/")
        assert _post(target, issuer.client_context()).status == 204
    assert asked == [HOST]
    assert len(receiver.calls) == 1


def test_a_certificate_for_another_name_or_from_a_stranger_is_refused(issuer: Authority) -> None:
    with receiving(issuer.server_context("other.test")) as receiver:
        assert _code(_target(f"https://{HOST}:{receiver.port}/"), issuer.client_context()) == "tls_failed"
    with receiving(issuer.server_context(HOST)) as stranger:
        assert _code(_target(f"https://{HOST}:{stranger.port}/")) == "tls_failed"
    assert receiver.calls == stranger.calls == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_not_followed(status: int) -> None:
    with receiving() as elsewhere, receiving() as receiver:
        receiver.answer = lambda _: (status, {"location": elsewhere.url})
        assert _post(_target(f"http://{HOST}:{receiver.port}/")).status == status
    assert elsewhere.calls == []


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert _post(_target(f"http://{HOST}:{receiver.port}/")).status == 204
    assert proxy.calls == []


def test_the_next_address_is_tried_where_the_first_does_not_listen() -> None:
    with receiving() as receiver:
        target = _target(f"http://{HOST}:{receiver.port}/", "127.0.0.2", "127.0.0.1")
        assert _post(target).status == 204


def test_a_receiver_that_does_not_listen_is_no_answer() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert _code(_target(f"http://{HOST}:{unused.getsockname()[1]}/")) == "connection_failed"


@contextmanager
def _odd_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            try:
                peer, _ = listening.accept()
                with peer:
                    talk(peer)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(20)


def _drip(peer: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000:
        peer.sendall(bytes([byte]))
        time.sleep(0.05)


def test_a_receiver_that_drips_its_answer_is_given_up_at_the_limit() -> None:
    with _odd_server(_drip) as port:
        start = time.monotonic()
        assert _code(_target(f"http://{HOST}:{port}/"), seconds=0.5) == "timeout"
        assert time.monotonic() - start < 60, "the whole answer takes minutes"


def test_a_receiver_that_says_nothing_is_given_up_at_the_limit() -> None:
    with _odd_server(lambda _: time.sleep(1.5)) as port:
        assert _code(_target(f"http://{HOST}:{port}/"), seconds=0.3) == "timeout"


def test_an_endless_body_is_not_read() -> None:
    def endless(peer: socket.socket) -> None:
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"x" * 65536)

    with _odd_server(endless) as port:
        assert _post(_target(f"http://{HOST}:{port}/")).status == 200


def test_what_is_not_http_is_no_answer() -> None:
    def mail(peer: socket.socket) -> None:
        peer.sendall(b"220 mail.example ESMTP\r\n")
        peer.shutdown(socket.SHUT_WR)
        # Closing on bytes nobody read resets the connection, which can outrun the line just sent.
        while peer.recv(65536):
            pass

    with _odd_server(mail) as port:
        assert _code(_target(f"http://{HOST}:{port}/")) == "answer_malformed"


def test_an_address_that_is_a_host_of_its_own_works_over_tls(issuer: Authority, tmp_path: Path) -> None:
    with receiving(issuer.server_context(HOST)) as receiver:
        guard = Guard(allowed=Allowed.parse("127.0.0.1"))
        target = guard.target(f"https://127.0.0.1:{receiver.port}/")
        assert _code(target, issuer.client_context()) == "tls_failed", "the certificate names another host"
