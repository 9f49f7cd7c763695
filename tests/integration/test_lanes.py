"""Routes that take long leave the threads, and most of the interpreter, to those that take little."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service import lanes, migrate
from service.app import create_app
from service.routes import audit
from service.settings import Settings
from service.store import keys

MANY = 60  # more than there are threads
PATIENCE = 60.0


class Held:
    """Stands before a function, and lets nobody go on before it is told to."""

    def __init__(self, function: Any) -> None:
        self._function, self._go_on, self._counting = function, threading.Event(), threading.Lock()
        self.inside = self.most = 0

    def __call__(self, *given: Any, **options: Any) -> Any:
        with self._counting:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self._go_on.wait(PATIENCE)
        with self._counting:
            self.inside -= 1
        return self._function(*given, **options)

    def go_on(self) -> None:
        self._go_on.set()


async def _long_and_short(app: FastAPI, key: str, held: Held) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        waiting = [asyncio.create_task(client.get("/v1/audit/entries")) for _ in range(MANY)]
        try:
            end = time.monotonic() + PATIENCE
            while held.inside < lanes.READS_AT_ONCE:
                assert time.monotonic() < end
                await asyncio.sleep(0.01)
            async with asyncio.timeout(PATIENCE / 2):
                assert (await client.get("/v1/models")).json()["items"] == []
            assert not any(each.done() for each in waiting)
        finally:
            held.go_on()
        assert {(await each).status_code for each in waiting} == {200}


def test_long_reads_however_many_leave_short_ones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path)
    migrate.upgrade(settings.resolved_database_url)
    app = create_app(settings)
    with app.state.parts.database.writing() as session:
        key = keys.create(session, name="auditor", scopes=["admin"])[1]
    held = Held(audit.found)
    monkeypatch.setattr(audit, "found", held)
    asyncio.run(_long_and_short(app, key, held))
    assert held.most == lanes.READS_AT_ONCE
    app.state.parts.database.dispose()
