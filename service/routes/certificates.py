"""…/deletion-requests/{id}/certificate: the signed bundle, a rendering for people, and the predicate's schema."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from fastapi.responses import HTMLResponse, JSONResponse, Response

from service.auth import Principal
from service.deps import Parts, PartsDep, principal, writing_as
from service.digest_headers import etag, repr_digest
from service.evidence.rendering import render
from service.evidence.verify import PREDICATE_SCHEMA
from service.store import certificates
from service.store.tables import Certificate

HTML, JSON = "text/html", "application/json"
SCHEMA = "application/schema+json"
# The page is complete in itself: it may load nothing and run nothing.
_INERT = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_BOTH: dict[int | str, dict[str, Any]] = {200: {"content": {JSON: {}, HTML: {}}}}

router = APIRouter(prefix="/v1", tags=["certificates"])


async def reader(who: Annotated[Principal, Depends(principal)]) -> Principal:
    """Return who is asking, if they may read the log or requests."""
    if not who.may("requests:read"):
        who.require("audit:read")
    return who


Reader = Annotated[Principal, Depends(reader)]


@router.get(
    "/deletion-requests/{request_id}/certificate",
    operation_id="get_certificate",
    response_class=Response,
    responses=_BOTH,
)
def get(request_id: str, parts: PartsDep, who: Reader, accept: Annotated[str, Header()] = "") -> Response:
    """Return the signed bundle, byte for byte as it was issued; with `Accept: text/html` the page for people."""
    if _prefers_html(accept):
        return page(request_id, parts, who)
    row = _fetched(parts, who, request_id, form="bundle")
    headers = {"ETag": etag(row.sha256), "Repr-Digest": repr_digest(row.sha256), "Cache-Control": "no-store"}
    return Response(row.bundle, media_type=JSON, headers={**headers, "Vary": "Accept"})


@router.get(
    "/deletion-requests/{request_id}/certificate.html",
    operation_id="get_certificate_page",
    response_class=HTMLResponse,
)
def page(request_id: str, parts: PartsDep, who: Reader) -> HTMLResponse:
    """Return the certificate for people to read and print. It proves nothing by itself: the bundle does."""
    row = _fetched(parts, who, request_id, form="page")
    return HTMLResponse(render(row.bundle), headers={**_INERT, "Cache-Control": "no-store", "Vary": "Accept"})


@router.get(
    "/schemas/unlearning-certificate/v1",
    operation_id="get_certificate_schema",
    response_class=Response,
    responses={200: {"content": {SCHEMA: {"schema": {"type": "object"}}}}},
    dependencies=[Depends(principal)],
)
def schema() -> Response:
    """Return the JSON Schema (2020-12) of the predicate `unlearning-certificate/v1`; any key may read it."""
    return JSONResponse(PREDICATE_SCHEMA, media_type=SCHEMA)


def _fetched(parts: Parts, who: Principal, request_id: str, *, form: str) -> Certificate:
    with writing_as(parts, who) as session:
        row = certificates.get(session, request_id)
        certificates.note_fetched(session, row, form=form)
    return row


def _prefers_html(accept: str) -> bool:
    """Say whether HTML is asked for and JSON is not asked for as much."""
    weights = {HTML: 0.0, JSON: 0.0}
    for part in accept.split(","):
        kind, _, parameters = part.partition(";")
        if (kind := kind.strip().lower()) in weights:
            weights[kind] = _quality(parameters)
    return weights[HTML] > weights[JSON]


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
