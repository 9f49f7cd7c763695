"""/v1/evaluations: the stored report of an attempt, its plots, and the schema of both."""

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import JSONResponse, Response

from service.catalogue.report_schema import REPORT_SCHEMA
from service.deps import PartsDep, needs
from service.digest_headers import etag, names_tag, repr_digest
from service.schemas.report import EvaluationOut, evaluation_schema
from service.store import evaluations, plots

SVG = "image/svg+xml"
SCHEMA = "application/schema+json"
# An SVG is a document: opened by itself it may neither load nor run anything, nor be taken for anything else.
INERT = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
}
# Plots never change, but only who has a key may see them.
CACHED = {"Cache-Control": "private, max-age=86400, immutable"}

OfRequest = Annotated[
    str | None,
    Query(
        max_length=40,
        description="Show, of a report that several deletion requests share, the figure of this one alone: to hand on "
        "to whom the others do not concern. It has the digest that the log has of the whole.",
    ),
]

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"], dependencies=[needs("requests:read")])


@router.get(
    "/schema",
    operation_id="get_evaluation_schema",
    response_class=Response,
    responses={200: {"content": {SCHEMA: {"schema": {"type": "object"}}}}},
)
def schema() -> Response:
    """Return the JSON Schema (2020-12) of what `GET /v1/evaluations/{evaluation_id}` answers."""
    return JSONResponse(evaluation_schema(), media_type=SCHEMA)


@router.get("/{evaluation_id}", operation_id="get_evaluation", responses={200: {"model": EvaluationOut}})
def get(evaluation_id: str, parts: PartsDep, request_id: OfRequest = None) -> dict[str, Any]:
    """Return what was measured, with intervals, basis, and what it does not prove; `plots` says where each plot is."""
    with parts.database.reading() as session:
        row = evaluations.get(session, evaluation_id)
        there = plots.names(session, evaluation_id)
        whole = request_id is None
        report = evaluations.whole(session, row) if whole else evaluations.shown_to(session, row, str(request_id))
        return {
            "schema": REPORT_SCHEMA,
            **report,
            "id": row.id,
            "job_id": row.job_id,
            "created_at": row.created_at,
            "plots": {name: f"/v1/evaluations/{row.id}/plots/{name}.svg" for name in there},
        }


@router.get(
    "/{evaluation_id}/plots/{name}.svg",
    operation_id="get_evaluation_plot",
    response_class=Response,
    responses={200: {"content": {SVG: {}}}, 304: {"description": "The client has this plot."}},
)
def plot(evaluation_id: str, name: str, parts: PartsDep, if_none_match: Annotated[str, Header()] = "") -> Response:
    """Return one plot. A 404 lists the plots there are."""
    with parts.database.reading() as session:
        evaluations.get(session, evaluation_id)
        svg = plots.get(session, evaluation_id, name).encode()
    digest = hashlib.sha256(svg).hexdigest()
    headers = {"ETag": etag(digest), "Repr-Digest": repr_digest(digest), **CACHED, **INERT}
    if names_tag(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(svg, headers=headers, media_type=SVG)
