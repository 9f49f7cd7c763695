"""A worker or an API that is asked to end while the database is away ends quietly, and says so in structured lines."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.dispatch import Bell
from tests.servers import Restartable, restartable_postgres
from tests.stack import Stack, running

END_SECONDS = 60.0


@pytest.fixture(scope="module")
def database() -> Iterator[Restartable]:
    with restartable_postgres() as found:
        yield found


def _lines(stack: Stack) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack.log.read_text().splitlines() if line.startswith("{")]


def _said(stack: Stack, action: str) -> list[dict[str, Any]]:
    return [line for line in _lines(stack) if line["action"] == action]


def test_a_worker_asked_to_end_while_the_database_is_away_ends_with_one_structured_line(
    database: Restartable, tmp_path: Path
) -> None:
    with running(tmp_path, database_url=database.url) as stack:
        assert stack.worker is not None
        stack.wait("/readyz", lambda found: found["worker_states"]["idle"] == 1)
        database.stop()
        try:
            stack.until(lambda: _said(stack, "sweep.failed") or None)
            Bell(stack.settings).ring(["job"])
            stack.until(lambda: _said(stack, "claim.refused") or None, seconds=20)
            stack.worker.send_signal(signal.SIGTERM)
            assert stack.worker.wait(END_SECONDS) == 0
            stack.api.send_signal(signal.SIGTERM)
            assert stack.api.wait(END_SECONDS) == 0
        finally:
            database.start()
        assert [line["error"] for line in _said(stack, "worker.not_signed_off")] == ["OperationalError"]
        assert _said(stack, "thread.broken") == []
        text = stack.log.read_text()
        assert "Traceback" not in text
        assert "connection to server" not in text, "an exception's message"
