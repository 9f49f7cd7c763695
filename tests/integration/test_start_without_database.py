"""An API that starts while its database is away waits for it: alive, not ready, and ready once the database is back."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service import migrate
from tests.ports import free_port
from tests.servers import Restartable, restartable_postgres

WAIT_SECONDS = 120.0


@pytest.fixture
def postgres() -> Iterator[Restartable]:
    with restartable_postgres() as found:
        yield found


def _answers(url: str, status: int, api: "subprocess.Popen[bytes]") -> bool:
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end and api.poll() is None:
        try:
            if httpx.get(url, timeout=60).status_code == status:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return False


def test_an_api_waits_for_a_database_that_is_away(tmp_path: Path, postgres: Restartable) -> None:
    migrate.upgrade(postgres.url)
    postgres.stop()
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    env |= {"UNLEARN_DATA_DIR": str(tmp_path), "UNLEARN_DATABASE_URL": postgres.url}
    api = subprocess.Popen([sys.executable, "-m", "service.cli", "api", "--port", str(port)], env=env)
    try:
        assert _answers(f"http://127.0.0.1:{port}/healthz", 200, api)
        assert _answers(f"http://127.0.0.1:{port}/readyz", 503, api)
        postgres.start()
        assert _answers(f"http://127.0.0.1:{port}/readyz", 200, api)
    finally:
        api.terminate()
        assert api.wait(WAIT_SECONDS) == 0


def test_a_database_that_is_none_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "unlearn.db").write_bytes(b"no database at all, " * 100)
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    command = [sys.executable, "-m", "service.cli", "api", "--port", "0", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 1
    assert "is no database, or is damaged" in done.stderr
    assert "Traceback" not in done.stderr
