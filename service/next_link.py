"""Names the next page of a list in a Link header (RFC 8288), so that a client need not know how cursors are passed.

It stands around all routes, because every list answers with a `Page` and none should be able to forget the header.
"""

import json
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.schemas.common import Page


class NextLink:
    """ASGI middleware; touches nothing but answers of routes that return a `Page`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def linked(message: Message) -> None:
            nonlocal start
            # The header is in what comes last, the body: hold the start back until then.
            if message["type"] == "http.response.start" and message["status"] == 200 and _is_a_list(scope):
                start = message
                return
            if start is not None:
                _add_link(start, scope, message["body"])
                await send(start)
                start = None
            await send(message)

        await self._app(scope, receive, linked)


def _is_a_list(scope: Scope) -> bool:
    answer = getattr(scope.get("route"), "response_model", None)
    return isinstance(answer, type) and issubclass(answer, Page)


def _add_link(start: Message, scope: Scope, body: bytes) -> None:
    cursor = json.loads(body)["next_cursor"]
    if cursor is None:
        return
    kept = [pair for pair in parse_qsl(scope["query_string"].decode("latin-1")) if pair[0] != "cursor"]
    # Relative to the list's own address, which a proxy may know by another name.
    MutableHeaders(raw=start["headers"])["link"] = f'<?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'
