"""Gives each HTTP request an id: on every log line written on its behalf, and in its answer's ``X-Request-ID``.

A caller's own id is taken where it is short and plain; anything else is replaced, so that no header writes the log.
"""

import re
import secrets
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
_PLAIN = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What this service names: its own ids stand in paths, and nobody's data has this shape.
_OURS = re.compile(r"[a-z]{3}_[0-9a-f]{32}")
_QUIET = ("GET", "HEAD", "OPTIONS")
log = structlog.get_logger()


class RequestIds:
    """An ASGI middleware around all that may log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == HEADER), b"")
        request_id = given if _PLAIN.fullmatch(given) else secrets.token_hex(16).encode()
        began, answered = time.monotonic(), _Answer()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.status = message["status"]
                location = next((v for n, v in message["headers"] if n.lower() == b"location"), b"")
                answered.location = location.decode("latin-1")
                headers = [*message["headers"], (HEADER, request_id)]
                message = {**message, "headers": headers}
            await send(message)

        with structlog.contextvars.bound_contextvars(http_request_id=request_id.decode()):
            try:
                await self._app(scope, receive, named)
            finally:
                _tell(scope, answered, time.monotonic() - began)


class _Answer:
    """What the access line says of the answer; 0: none was begun."""

    status, location = 0, ""


def _tell(scope: Scope, answered: _Answer, seconds: float) -> None:
    tell = log.debug if scope["method"] in _QUIET else log.info
    route = getattr(scope.get("route"), "path", None)
    ids = {n: v for n, v in scope.get("path_params", {}).items() if isinstance(v, str) and _OURS.fullmatch(v)}
    if made := _OURS.search(answered.location):
        ids["made"] = made[0]
    tell(
        "http.answered",
        method=scope["method"],
        route=route,
        status=answered.status,
        seconds=round(seconds, 4),
        **ids,
    )
