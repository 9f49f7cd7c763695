"""The servers the integration tests stand on are the real ones, and leave nothing behind."""

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from sqlalchemy import create_engine, make_url, text

from tests import servers

ROOT = Path(__file__).resolve().parents[2]


def _query(url: str, statement: str) -> object:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(text(statement)).scalar_one()
    finally:
        engine.dispose()


def test_the_database_is_postgresql(postgres_url: str) -> None:
    assert str(_query(postgres_url, "SELECT version()")).startswith("PostgreSQL ")


def test_the_broker_answers_as_redis_does(valkey_url: str) -> None:
    key = f"test:{secrets.token_hex(8)}"
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        assert client.ping()
        client.set(key, "kept")
        assert client.get(key) == "kept"
        client.delete(key)


def test_a_module_gets_a_database_of_its_own(postgres_url: str, postgres_database_url: str) -> None:
    assert make_url(postgres_database_url).database != make_url(postgres_url).database
    assert _query(postgres_database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


def test_a_dropped_database_is_gone_even_while_someone_is_connected(postgres_url: str) -> None:
    name = f"test_{secrets.token_hex(8)}"
    url = servers.create_database(postgres_url, name)
    engine = create_engine(url)
    with pytest.raises(psycopg.errors.DuplicateDatabase):
        servers.create_database(postgres_url, name)
    with engine.connect() as connection:
        servers.drop_database(postgres_url, name)
        connection.invalidate()
    engine.dispose()
    assert _query(postgres_url, f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == 0


@pytest.mark.parametrize(
    ("variable", "server"),
    [
        (servers.DATABASE_URL_VARIABLE, servers.postgres_server),
        (servers.BROKER_URL_VARIABLE, servers.valkey_server),
    ],
)
def test_a_named_server_is_used_as_it_is(variable: str, server: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "scheme://somewhere/else")
    assert callable(server)
    with server() as url:
        assert url == "scheme://somewhere/else"


HOLDER = """
import sys
from tests.servers import postgres_server, valkey_server
with postgres_server() as postgres, valkey_server() as valkey:
    print("started", flush=True)
    sys.stdin.read()
"""


def test_no_server_outlives_a_killed_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in (servers.DATABASE_URL_VARIABLE, servers.BROKER_URL_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "started\n"
        family = psutil.Process(holder.pid).children(recursive=True)
        running = [process for process in family if process.name() in ("postgres", "valkey-server")]
        assert {process.name() for process in running} == {"postgres", "valkey-server"}
        folders = {Path(process.cwd()) for process in running}
        holder.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    deadline = time.monotonic() + 60
    while any(folder.exists() for folder in folders) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(folder.exists() for folder in folders)
