"""Keeps a restored service shut until it has forgotten again what was forgotten after its backup."""

import json
import time

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from service.problems import MEDIA_TYPE, problem
from service.store import replays
from service.store.session import Database

CODE = "restore_replay_pending"
_OPEN = ("/healthz", "/readyz", "/metrics")
_DETAIL = (
    "The database came from a backup, and what was erased since has not been replayed yet. The operator runs "
    "`unlearn replay`; until then nothing is served."
)


# Asked again, since a database can be lost and restored under a process that goes on; that takes longer than this.
ASK_AGAIN_SECONDS = 1.0


class RestoreGate:
    """Whether a replay is due."""

    def __init__(self, database: Database) -> None:
        self._database, self._open_until = database, 0.0

    @property
    def opened(self) -> bool:
        """Say whether none was due a moment ago."""
        return time.monotonic() < self._open_until

    def due(self) -> bool:
        """Ask whether a replay is due. A database that does not answer says nothing: whoever asks it finds out."""
        asked = time.monotonic()
        try:
            with self._database.reading() as session:
                found = replays.pending(session) is not None
        except SQLAlchemyError:
            return False
        self._open_until = 0.0 if found else asked + ASK_AGAIN_SECONDS
        return found


class ShutUntilReplayed:
    """An ASGI middleware that answers 503 while the gate is shut."""

    def __init__(self, app: ASGIApp, gate: RestoreGate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passes = scope["type"] != "http" or scope["path"] in _OPEN or self._gate.opened
        if passes or not await run_in_threadpool(self._gate.due):
            await self._app(scope, receive, send)
            return
        body = json.dumps(problem(503, CODE, "The service is being restored", _DETAIL)).encode()
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 503, "headers": [*headers, (b"retry-after", b"30")]})
        await send({"type": "http.response.body", "body": body})
