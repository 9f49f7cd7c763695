"""A receiver of webhooks for tests: a real HTTP server on a free port that keeps what came, with TLS if asked."""

import base64
import hashlib
import hmac
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = tuple[int, dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Receiver:
    """``answer`` decides on each call; it runs in the call's own thread, so it may take its time."""

    port: int
    answer: Callable[[Received], Answer] = lambda _: (204, {})
    calls: list[Received] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def took(self, received: Received) -> Answer:
        with self.arrived:
            self.calls.append(received)
            self.arrived.notify_all()
        return self.answer(received)

    def wait(self, count: int, seconds: float = 60) -> list[Received]:
        """Return the calls once there are so many."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: len(self.calls) >= count, seconds):
                raise TimeoutError(f"{len(self.calls)} of {count} calls came in {seconds} s")
            return list(self.calls)


@contextmanager
def receiving(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver until the block ends."""
    found = Receiver(port=0)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, extra = found.took(Received(path=self.path, headers=headers, body=body, at=time.monotonic()))
            self.send_response(status)
            for name, value in {"content-length": "0", **extra}.items():
                self.send_header(name, value)
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - a client that follows a redirect would come this way

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that hangs up, or refuses the certificate, is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def expected_signature(secret: str, received: Received) -> str:
    """Return the signature as the specification puts it: base64(HMAC-SHA256(id.timestamp.body))."""
    key = base64.b64decode(secret.split("_", 1)[1])
    content = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode() + received.body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate authority of the test's own. ``certificate`` is its file, for those who trust it."""

    certificate: Path
    folder: Path
    key: ec.EllipticCurvePrivateKey

    def server_context(self, *names: str) -> ssl.SSLContext:
        """Return a server's context with a certificate for the names."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        certificate = _certificate(names[0], key, signer=self.key, issuer="test authority").add_extension(
            alternatives, critical=False
        )
        path = self.folder / f"{names[0]}.pem"
        signed = certificate.sign(self.key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


def authority(folder: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    made = _certificate("test authority", key, signer=key, issuer="test authority").add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    path = folder / "authority.pem"
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return Authority(certificate=path, folder=folder, key=key)


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, *, signer: ec.EllipticCurvePrivateKey, issuer: str
) -> x509.CertificateBuilder:
    moment = datetime.now(UTC)
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(minutes=5))
        .not_valid_after(moment + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority_id, critical=False)
    )
