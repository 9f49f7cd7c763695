"""Refuses bodies over the limit, whether or not they announce their length, and URLs no store can look up."""

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import MEDIA_TYPE, problem

# Only this route streams to disk; all others hold their body in memory, whatever media type it claims to be.
_UPLOAD = re.compile(r"/v1/models/[^/]+/versions/?")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a client may make the service wait for its body: so many seconds, and the time its bytes take."""

    seconds: float
    bytes_per_second: int


class BodyLimit:
    """ASGI middleware with two limits, one for JSON, one for weights, and a pace for both."""

    def __init__(self, app: ASGIApp, *, json_bytes: int, weights_bytes: int, pace: Pace) -> None:
        self._app, self._json, self._weights, self._pace = app, json_bytes, weights_bytes, pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        media = headers.get(b"content-type", b"").split(b";")[0].strip()
        is_weights = media.lower() == b"application/vnd.safetensors" and _UPLOAD.fullmatch(scope["path"])
        limit = self._weights if is_weights else self._json
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            await _refuse(send, problem(413, "body_too_large", "The body is too large", _detail(limit)))
            return
        await self._app(scope, _counting(receive, limit, self._pace), send)


class NoNulInUrl:
    """ASGI middleware that refuses a NUL in path or query: PostgreSQL has no such text, so nothing is named so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ("\x00" in scope["path"] or b"%00" in scope["query_string"]):
            detail = "The URL holds a NUL character, and nothing has a name with one."
            await _refuse(send, problem(400, "bad_request", "Bad request", detail))
            return
        await self._app(scope, receive, send)


def _counting(receive: Receive, limit: int, pace: Pace) -> Receive:
    seen, waited, more = 0, 0.0, True

    async def counted() -> Message:
        nonlocal seen, waited, more
        if not more:  # what comes now is that the client left, whenever that is
            return await receive()
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, pace.seconds + seen / pace.bytes_per_second - waited)):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, _too_slow(pace), {"Connection": "close"}) from None
        waited += time.monotonic() - began
        more = message.get("more_body", False)
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, _detail(limit))
        return message

    return counted


def _too_slow(pace: Pace) -> str:
    return f"The body came too slowly: send at least {pace.bytes_per_second} bytes a second."


def _detail(limit: int) -> str:
    return f"The body is larger than {limit} bytes; send less at a time or raise the operator's limit."


async def _refuse(send: Send, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": document["status"], "headers": [*headers, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": body})
