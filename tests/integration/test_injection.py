"""Hostile text in every string of every operation, as the OpenAPI document lists them: a 4xx or a plain success.

No answer is a 500, no log line is anything but one JSON object, and none holds what was sent.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests import factories
from tests.stack import Stack, running

MARK = "q7Zx"
HOSTILE = (
    f"""{MARK}' OR '1'='1' --"; DROP TABLE samples; -- %n%s%x {{0}} {{{{7*7}}}} ${{7*7}} <%= 7*7 %> ../../etc/passwd""",
    f'{MARK}","admin":true,"x":"<script>alert(1)</script> =cmd|\'/c calc\'!A1',
    f'{MARK}\r\nX-Injected: 1\r\n\r\n\n{{"action": "forged"}}\x1b[2J\x1b]0;title\x07\x7f',
    f"{MARK}\u202e\u2066\u200b\ufeff\ufffe é e\u0301",
    MARK + "x" * 10_000,
    f"{MARK}\x00nul",
)
HALF = f"{MARK}\ud800"
SKIPPED = {"revoke_api_key", "rotate_api_key"}  # the test's own key goes on


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings: dict[str, str] = {"rate_limit_writes": "", "rate_limit_reads": "", "log_level": "debug"}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(tmp_path_factory.mktemp("injection"), worker=False, stream_seconds="0.1", **settings) as found:
        factories.dataset(found)
        factories.model(found)
        factories.version(found)
        yield found


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    return schema


def _value(document: dict[str, Any], schema: dict[str, Any], text: str) -> Any:
    """Return a value of the schema's shape with the text in every place where a string may stand."""
    schema = _resolved(document, schema)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return _value(document, schema[choice][0], text)
    if schema.get("type") == "object" or "properties" in schema:
        named = {name: _value(document, each, text) for name, each in schema.get("properties", {}).items()}
        return named or {text: text}
    if schema.get("type") == "array":
        return [_value(document, schema.get("items", {}), text)]
    plain: Any = {"integer": 1, "number": 1.0, "boolean": True}
    return plain.get(schema.get("type", "string"), text)


def _bodies(document: dict[str, Any], operation: dict[str, Any], text: str) -> list[Any]:
    """Return a body with the text everywhere, and one for each field with the text there and good values elsewhere."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return [None]
    whole = _value(document, content["schema"], text)
    plain = {"dataset": "d", "sample_ids": ["d-train-0"], "name": "fresh", "method": "finetune", "purpose": "privacy"}
    singles = [{**{k: v for k, v in plain.items() if k in whole}, name: value} for name, value in whole.items()]
    return [whole, *singles]


def _calls(document: dict[str, Any], text: str) -> Iterator[tuple[str, str, dict[str, str], dict[str, str], Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["operationId"] in SKIPPED:
                continue
            names = {kind: [p["name"] for p in operation.get("parameters", []) if p["in"] == kind] for kind in KINDS}
            hostile = path
            for name in names["path"]:
                hostile = hostile.replace(f"{{{name}}}", quote(text, safe=""))
            good = re.sub(r"\{name\}", "d" if "datasets" in path else "m", path).replace("{number}", "1")
            good = re.sub(r"\{\w+\}", quote(text, safe=""), good)
            headers = {name: quote(text, safe=" '\"=<>{}") for name in names["header"]}
            for body in _bodies(document, operation, text):
                yield method, good, headers, dict.fromkeys(names["query"], text), body
            yield method, hostile, {}, {}, None


KINDS = ("path", "query", "header")


def _sent(stack: Stack, text: str, document: dict[str, Any]) -> None:
    for method, path, headers, query, body in _calls(document, text):
        content = None if body is None else json.dumps(body)  # in ASCII: half a surrogate pair too
        media = {"Content-Type": "application/json"} if content else {}
        # One parameter at a time, so that none hides behind another's fault.
        for params in [{}, *({name: value} for name, value in query.items())]:
            answer = stack.client.request(
                method, path, headers=headers | media, params=_encodable(params), content=content
            )
            place = f"{method} {path[:80]} {params.keys()} {str(body)[:200]}"
            assert answer.status_code < 500, f"{place}: {answer.status_code} {answer.text[:300]}"
            assert "x-injected" not in answer.headers, place
            if answer.status_code >= 400 and method != "head":
                assert answer.headers["content-type"] == "application/problem+json", place
                assert len(answer.content) < 60_000, place


def _encodable(params: dict[str, str]) -> dict[str, str]:
    return {name: value.encode("utf-8", "replace").decode() for name, value in params.items()}


def test_hostile_text_in_every_field_is_refused_or_kept_as_text(stack: Stack) -> None:
    document = stack.client.get("/openapi.json").json()
    for text in HOSTILE:
        _sent(stack, text, document)
    _sent_in_bodies(stack, HALF, document)
    # Nothing of it was taken for SQL.
    samples = stack.client.get("/v1/datasets/d/samples", params={"limit": 1000}).json()["items"]
    assert len(samples) == 55
    _check_log(stack)
    assert stack.client.get("/v1/audit/entries", params={"limit": 1000}).status_code == 200


def _sent_in_bodies(stack: Stack, text: str, document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if "requestBody" not in operation or operation["operationId"] in SKIPPED:
                continue
            good = re.sub(r"\{name\}", "d" if "datasets" in path else "m", path)
            for body in _bodies(document, operation, text):
                headers = {"Content-Type": "application/json"}
                answer = stack.client.request(method, good, content=json.dumps(body), headers=headers)
                assert answer.status_code < 500, f"{method} {path} {ascii(body)[:200]}: {answer.text[:300]}"


def _check_log(stack: Stack) -> None:
    for line in stack.log.read_text().splitlines():
        assert MARK not in line
        assert "forged" not in line
        if line.strip():
            assert isinstance(json.loads(line), dict), line


IDS = (
    "a\u0301", "\u00e1", "../../etc/passwd", "' OR 1=1 --", "%n%s", "{0}", "=1+1", "\u202e", "\x07\x1b[0m", "\u0000",
    "\ud800", "x" * 512, "x" * 513, "x" * 10_000, "null", "[1]", '"', "\\", "\r\n", "\U0001f9d1\u200d\U0001f680",
)  # fmt: skip


@pytest.mark.parametrize("sample_id", IDS, ids=ascii)
def test_an_id_is_compared_as_it_is_and_found_only_where_it_is(stack: Stack, sample_id: str) -> None:
    """No form of Unicode is taken for another, and nothing is trimmed."""
    good = 0 < len(sample_id) <= 512 and "\x00" not in sample_id and not re.search("[\ud800-\udfff]", sample_id)
    body = json.dumps({"dataset": "d", "sample_ids": [sample_id], "method": "finetune"})
    answer = stack.client.post("/v1/deletion-requests", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["code"] == ("unresolved_sample_ids" if good else "invalid_request")
    body = json.dumps({"sample_ids": [sample_id, "d-train-0"]})
    check = stack.client.post(
        "/v1/datasets/d/suppressions/check", content=body, headers={"Content-Type": "application/json"}
    )
    assert check.status_code == (200 if good else 422)
    assert MARK not in stack.log.read_text()
