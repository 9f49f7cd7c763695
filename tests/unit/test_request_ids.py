"""Every HTTP request has an id, in its answer and on its log lines, and no header writes the log."""

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service import logs
from service.request_ids import RequestIds

MADE = "req_" + "0" * 32


def _sync(request: Request) -> PlainTextResponse:  # in a thread of the pool, as most routes are
    structlog.get_logger().info("worked")
    return PlainTextResponse("", 202, {"Location": f"/v1/deletion-requests/{MADE}"})


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    before, stream = structlog.get_config(), io.StringIO()
    logs.configure("debug", stream)
    structlog.configure(cache_logger_on_first_use=False)
    yield stream
    structlog.configure(**before)


def _ask(path: str = "/x/y", **headers: str) -> httpx.Response:
    app = RequestIds(Starlette(routes=[Route("/x/{name}", _sync, methods=["POST"])]))

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, headers=[(name.encode(), value.encode()) for name, value in headers.items()])

    return asyncio.run(send())


def _lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_a_plain_id_is_taken_and_stands_on_every_line_of_its_request(written: io.StringIO) -> None:
    answer = _ask(**{"X-Request-ID": "trace-4711.a_b"})
    assert answer.headers["x-request-id"] == "trace-4711.a_b"
    lines = _lines(written)
    assert [line["action"] for line in lines] == ["worked", "http.answered"]
    assert {line["http_request_id"] for line in lines} == {"trace-4711.a_b"}
    assert (lines[1]["route"], lines[1]["status"], lines[1]["made"]) == ("/x/{name}", 202, MADE)


@pytest.mark.parametrize("given", ["", "a b", 'x","level":"error', "x" * 65, "-x", "a;b", "ü"])
def test_any_other_is_replaced(written: io.StringIO, given: str) -> None:
    made = {_ask(**{"X-Request-ID": given}).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert given not in made
    assert all(len(each) == 32 for each in made)


def test_what_a_caller_writes_into_a_path_is_not_on_the_line(written: io.StringIO) -> None:
    _ask("/x/patient-4711")
    _ask("/nowhere/patient-4711")
    assert "4711" not in written.getvalue()
    _ask(f"/x/{MADE}")
    assert _lines(written)[-1]["name"] == MADE
