"""Answers what nobody foresaw with a problem, and logs where it arose but never its message.

Messages quote data: a key that was not found, a value that did not fit. A server that sees an exception prints it
whole, so none may reach it.
"""

import json

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import trace
from service.problems import MEDIA_TYPE, problem

log = structlog.get_logger()


class AnswerBrokenOff(Exception):
    """The answer had begun when it failed; the log line before this one says where."""


class Unforeseen:
    """The outermost ASGI middleware of the app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:  # noqa: BLE001 - the boundary of a request
            route = getattr(scope.get("route"), "path", None)
            log.error("request.failed", method=scope["method"], route=route, trace=trace(error))
            if begun:
                # Only an exception makes the server cut the connection: so the client sees the answer is not whole.
                raise AnswerBrokenOff from None
            await _answer(send)


async def _answer(send: Send) -> None:
    document = problem(500, "internal_error", "Internal error", "The service failed; the operator's log says where.")
    body = json.dumps(document).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})
