"""The reports of evaluations, and of those that several requests share what each of them may be shown."""

from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.evidence import report_parts
from service.evidence.report_parts import Cut, Figure
from service.store.tables import Evaluation, EvaluationFigure, table_of

_FIGURES = table_of(EvaluationFigure)
_ROWS, _PARTS = "per_request", "parts"


def add(session: Session, evaluation_id: str, job_id: str, cut: Cut) -> Evaluation:
    """Store a report in its parts."""
    row = Evaluation(id=evaluation_id, job_id=job_id, report=cut.stored)
    session.add(row)
    session.flush()
    figures = [
        {
            "evaluation_id": evaluation_id,
            "request_id": each.request_id,
            "index": each.index,
            "figure": each.document,
            "proof": each.proof,
        }
        for each in cut.figures
    ]
    if figures:
        session.execute(insert(_FIGURES), figures)
    return row


def get(session: Session, evaluation_id: str) -> Evaluation:
    """Return the evaluation. Raises NotFound."""
    row = session.get(Evaluation, evaluation_id)
    if row is None:
        raise NotFound("There is no such evaluation.", code="evaluation_not_found")
    return row


def whole(session: Session, evaluation: Evaluation) -> dict[str, Any]:
    """Return the report with the figures of all requests that share it."""
    if _PARTS not in evaluation.report or _ROWS in evaluation.report:
        return evaluation.report
    figures = select(_FIGURES.c.figure).where(_FIGURES.c.evaluation_id == evaluation.id).order_by(_FIGURES.c.index)
    return report_parts.joined(evaluation.report, list(session.scalars(figures)))


def shown_to(session: Session, evaluation: Evaluation, request_id: str) -> dict[str, Any]:
    """Return the report without the figures of any other request. Raises NotFound, Conflict."""
    if evaluation.report.get(_ROWS):
        raise Conflict(
            "The report was made before reports could be shown in parts: its digest in the log is of the whole, with "
            "the figures of every request. Read it without `request_id`.",
            code="report_not_in_parts",
        )
    if _PARTS not in evaluation.report:
        return evaluation.report
    figure = figure_of(session, evaluation, request_id)
    if figure is None:
        raise NotFound("The evaluation is of no such deletion request.", code="deletion_request_not_found")
    return report_parts.shown_to(evaluation.report, figure)


def figure_of(session: Session, evaluation: Evaluation, request_id: str) -> Figure | None:
    """Return what was measured on the samples of one request of several; None where nothing was, or all is in one."""
    row = session.get(EvaluationFigure, (evaluation.id, request_id))
    if row is None:
        return None
    return Figure(request_id=request_id, index=row.index, document=row.figure, proof=row.proof)
