"""The OpenAPI 3.1 description of the routes, with every problem that each of them answers."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service import problem_codes
from service.problems import MEDIA_TYPE

_METHODS = ("get", "head", "post", "put", "patch", "delete")
_NAME = "Problem"
_TITLES = {
    400: "The request cannot be read.",
    401: "Send a valid API key.",
    403: "Not with this key, or not now.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "The current state does not allow this.",
    410: "It was withdrawn and will not come back.",
    413: "The body is too large.",
    415: "Send another media type.",
    416: "No part of the range lies in the file.",
    422: "The request is not valid; every fault is listed.",
    429: "Come back later.",
    500: "The service failed; the operator's log says where.",
    503: "The service cannot do this now.",
    507: "There is no room to store anything.",
}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    416: {"Content-Range": {"required": True, "schema": {"type": "string", "pattern": r"^bytes \*/\d+$"}}},
    # None where waiting would not help: one request that is more than a day's quota.
    429: {"Retry-After": {"required": False, "schema": {"type": "string", "pattern": r"^\d+$"}}},
}
_FAULT = {
    "type": "object",
    "required": ["pointer", "code", "value"],
    "properties": {
        "pointer": {"type": "string", "description": "JSON Pointer (RFC 6901) to what is wrong."},
        "code": {"type": "string", "description": "Stable."},
        "value": {"description": "What was given, cut at 100 characters; null where it is not repeated."},
        "detail": {"type": "string"},
    },
}
PROBLEM: dict[str, Any] = {
    "title": _NAME,
    "description": "A problem document (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string", "pattern": "^urn:unlearning-service:problem:[a-z_]+$"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable: programs decide by this."},
        "detail": {"type": "string", "description": "For people: what is wrong and what to do."},
        "errors": {"type": "array", "items": _FAULT, "maxItems": 100},
        "errors_total": {"type": "integer", "description": "How many faults there are, where not all are listed."},
    },
}


def install(app: FastAPI) -> None:
    """Have `app.openapi()` return the description, made once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the description of every route."""
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas[_NAME] = PROBLEM
    for name in ("HTTPValidationError", "ValidationError"):  # what FastAPI thinks a 422 holds
        schemas.pop(name, None)
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                _add_problems(methods[method], path, with_content=method != "head")
    return document


def _add_problems(operation: dict[str, Any], path: str, *, with_content: bool) -> None:
    codes = problem_codes.of_operation(
        operation["operationId"],
        path,
        key="security" in operation,
        body="requestBody" in operation,
        parameters={parameter["name"] for parameter in operation.get("parameters", [])},
    )
    responses = operation["responses"]
    responses.pop("422", None)
    for status, names in sorted(codes.items()):
        problem = _response(status, names, with_content=with_content)
        own = responses.get(str(status))  # a status that also says something else, as that of /readyz does
        responses[str(status)] = _either(own, problem) if own else problem


def _response(status: int, names: list[str], *, with_content: bool) -> dict[str, Any]:
    code = {"properties": {"status": {"const": status}, "code": {"enum": sorted(names)}}}
    schema = {"allOf": [{"$ref": f"#/components/schemas/{_NAME}"}, code]}
    described = f"{_TITLES[status]} Codes: {', '.join(f'`{name}`' for name in sorted(names))}."
    answer: dict[str, Any] = {"description": described}
    if with_content:
        answer["content"] = {MEDIA_TYPE: {"schema": schema}}
    if status in _HEADERS:
        answer["headers"] = _HEADERS[status]
    return answer


def _either(own: dict[str, Any], problem: dict[str, Any]) -> dict[str, Any]:
    described = f"{own['description']} Or: {problem['description']}"
    return {**problem, "description": described, "content": {**own.get("content", {}), **problem.get("content", {})}}
