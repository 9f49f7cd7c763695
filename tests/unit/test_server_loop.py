"""The server rests between the seconds, and is woken by what may not wait for the next."""

import asyncio
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from service import server
from service.server import Server

PATIENCE = 30.0


def _server(*, drain_seconds: float, on_drain: Any = lambda: None) -> Server:
    parts: Any = SimpleNamespace(settings=SimpleNamespace(drain_seconds=drain_seconds), draining=threading.Event())

    async def app(*_: Any) -> None: ...

    return Server(uvicorn.Config(app), parts=parts, on_drain=on_drain)


def test_a_signal_begins_the_drain_and_its_end_is_kept_without_waiting_for_a_tick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "TICK_SECONDS", 10 * PATIENCE)
    drained: list[bool] = []
    found = _server(drain_seconds=0.1, on_drain=lambda: drained.append(True))

    async def ask_and_wait() -> None:
        loop = asyncio.create_task(found.main_loop())
        await asyncio.sleep(0.05)
        assert not loop.done()
        assert not drained
        found.handle_exit(signal.SIGTERM, None)
        await asyncio.wait_for(loop, PATIENCE)

    asyncio.run(ask_and_wait())
    assert drained == [True]
    assert found.should_exit


def test_the_date_is_brought_up_to_date_at_every_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TICK_SECONDS", 0.01)
    found = _server(drain_seconds=0.0)

    async def look() -> None:
        loop = asyncio.create_task(found.main_loop())
        for _ in range(3):
            found.server_state.default_headers = []
            async with asyncio.timeout(PATIENCE):
                while not found.server_state.default_headers:
                    await asyncio.sleep(0.005)
            assert found.server_state.default_headers[0][0] == b"date"
        found.handle_exit(signal.SIGTERM, None)
        await asyncio.wait_for(loop, PATIENCE)

    asyncio.run(look())
