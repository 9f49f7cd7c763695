"""The server rests between the seconds, and is woken by what may not wait for the next."""

import asyncio
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from service import heap, server
from service.server import Server
from service.settings import Settings

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


def test_a_process_that_serves_has_its_threads_take_short_turns_and_gives_memory_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[object] = []
    before = sys.getswitchinterval()

    def begin(self: Server) -> None:
        seen.append(sys.getswitchinterval())
        self.started = True

    monkeypatch.setattr(heap, "keep_little", lambda: seen.append("asked"))
    monkeypatch.setattr(Server, "run", begin)
    app: Any = SimpleNamespace(state=SimpleNamespace(parts=None))
    try:
        server.run(app, Settings(data_dir=tmp_path), host="127.0.0.1", port=0, on_drain=lambda: None, exit_seconds=1.0)
    finally:
        sys.setswitchinterval(before)
    assert seen == ["asked", pytest.approx(server.TURN_SECONDS)]
    assert before / 5 >= server.TURN_SECONDS
