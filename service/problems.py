"""Errors as RFC 9457 problem documents; the one place that knows which HTTP status an error has."""

import json
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from service import errors, outages
from service.errors import Fault, ServiceError

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"
_STATUS: dict[type[ServiceError], int] = {
    errors.InvalidRequest: 422,
    errors.MalformedBody: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.Quarantined: 403,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.TooManyRequests: 429,
    errors.TooLarge: 413,
    errors.PreconditionFailed: 422,
    errors.Unavailable: 503,
    errors.Outage: 503,
    errors.StorageFull: 507,
}
_HTTP_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    400: "bad_request",
    408: "body_too_slow",
    413: "body_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
}


class ProblemResponse(Response):
    """A problem document in ASCII: what a client sent may hold half a surrogate pair, which UTF-8 cannot carry."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


def response(error: ServiceError) -> ProblemResponse:
    """Return the problem document of an error."""
    status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, errors.TooManyRequests | errors.Outage) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    body = problem(status, error.code, error.title, error.detail, error.faults, **error.extra)
    return ProblemResponse(body, status, headers)


def problem(
    status: int, code: str, title: str, detail: str, faults: list[Fault] | None = None, **extra: Any
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": f"urn:unlearning-service:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        **extra,
    }
    if faults:
        body["errors"] = [
            {
                "pointer": f.pointer,
                "code": f.code,
                "value": f.value,
                **({"detail": f.detail} if f.detail else {}),
            }
            for f in faults
        ]
    return body


def pointer(location: tuple[Any, ...]) -> str:
    """Return the JSON pointer of a pydantic error location, without its leading 'body'."""
    parts = [str(part) for part in location if part != "body"]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def validation_faults(found: Any) -> list[Fault]:
    """Return pydantic's errors as faults; long input is cut, so that no body is echoed whole."""
    return [
        Fault(pointer(tuple(error["loc"])), error["type"], _brief(error.get("input")), error["msg"]) for error in found
    ]


def _brief(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, float) or (value == value and abs(value) != float("inf")) else str(value)
    return str(value)[:100]


def _malformed(found: Any) -> errors.MalformedBody:
    # The place and the parser's reason, never the text around it: that may be sample IDs.
    reason = found.get("ctx", {}).get("error", "it cannot be parsed")
    place = found["loc"][-1] if isinstance(found["loc"][-1], int) else 0
    return errors.MalformedBody(f"The body is not JSON: {reason} at character {place}. Send one JSON document.")


def install(app: FastAPI) -> None:
    """Make every foreseen error of the app a problem document; `service.unforeseen` answers the others."""

    @app.exception_handler(ServiceError)
    def _service_error(_: Request, error: ServiceError) -> ProblemResponse:
        return response(error)

    @app.exception_handler(OSError)
    @app.exception_handler(SQLAlchemyError)
    def _outage(_: Request, error: Exception) -> ProblemResponse:
        lack = outages.lacking(error)
        if lack is None:
            raise error  # nobody foresaw it: `service.unforeseen` answers
        log.warning("request.refused", code=lack.code, error=type(error).__name__)
        return response(lack)

    @app.exception_handler(RequestValidationError)
    def _validation_error(_: Request, error: RequestValidationError) -> ProblemResponse:
        malformed = next((found for found in error.errors() if found["type"] == "json_invalid"), None)
        if malformed is not None:
            return response(_malformed(malformed))
        detail = "The request is not valid; every fault is listed."
        return response(errors.InvalidRequest(detail, faults=validation_faults(error.errors())))

    @app.exception_handler(HTTPException)
    def _http_error(request: Request, error: HTTPException) -> ProblemResponse:
        code = _HTTP_CODES.get(error.status_code, "http_error")
        body = problem(error.status_code, code, str(error.detail), str(error.detail))
        headers = {"Allow": _allowed(request)} if error.status_code == 405 else dict(error.headers or {})
        return ProblemResponse(body, error.status_code, headers)


def _allowed(request: Request) -> str:
    """Return the methods of a path: the router names those of the first route that has it, and there may be more."""
    path = getattr(request.scope.get("route"), "path_format", "")
    described: dict[str, Any] = request.app.openapi()["paths"].get(path, {})
    return ", ".join(sorted(method.upper() for method in described))
