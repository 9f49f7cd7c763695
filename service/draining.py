"""What clients are told while the process drains.

Each answer closes its connection, so that the next request goes elsewhere; and what does not end in time is answered
before it is cut off.
"""

import asyncio
import json
import threading

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import MEDIA_TYPE, problem

_CLOSE = (b"connection", b"close")
# The thread that works on it may yet commit: nothing is claimed of that.
_CUT_OFF = (
    "The process ends and waits for this answer no longer. Ask again, with the same Idempotency-Key if there was one, "
    "to learn whether it was done."
)


class Draining:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, draining: threading.Event) -> None:
        self._app, self._draining = app, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def closing(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start" and self._draining.is_set():
                headers = [pair for pair in message["headers"] if pair[0].lower() != b"connection"]
                message = {**message, "headers": [*headers, _CLOSE]}
            await send(message)

        try:
            await self._app(scope, receive, closing)
        except asyncio.CancelledError:
            if begun or not self._draining.is_set():
                raise
            await _cut_off(closing)


async def _cut_off(send: Send) -> None:
    body = json.dumps(problem(503, "shutting_down", "The process is ending", _CUT_OFF)).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
