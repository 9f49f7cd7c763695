"""Refuses bodies over the limit before anything parses them, whether or not they announce their length."""

import json

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import MEDIA_TYPE, problem


class BodyLimit:
    """ASGI middleware with two limits: one for JSON, one for weights."""

    def __init__(self, app: ASGIApp, *, json_bytes: int, weights_bytes: int) -> None:
        self._app, self._json, self._weights = app, json_bytes, weights_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        media = headers.get(b"content-type", b"").split(b";")[0].strip()
        limit = self._weights if media == b"application/vnd.safetensors" else self._json
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            await _refuse(send, limit)
            return
        await self._app(scope, _counting(receive, limit), send)


def _counting(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, _detail(limit))
        return message

    return counted


def _detail(limit: int) -> str:
    return f"The body is larger than {limit} bytes; send less at a time or raise the operator's limit."


async def _refuse(send: Send, limit: int) -> None:
    body = json.dumps(problem(413, "body_too_large", "The body is too large", _detail(limit))).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
