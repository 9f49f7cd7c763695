"""The plots of an evaluation: SVG text by name, kept with the report and never changed."""

import re
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import NotFound
from service.store.tables import EvaluationPlot

MAX_BYTES = 1_000_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def save(session: Session, evaluation_id: str, plots: Mapping[str, str]) -> None:
    """Add the evaluation's plots. Raises ValueError for a name that fits no URL, or a plot that is too large."""
    for name, svg in plots.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"a plot's name is lower-case letters, digits and _, not {name!r}")
        if len(svg.encode()) > MAX_BYTES:
            raise ValueError(f"plot {name} has more than {MAX_BYTES} bytes")
        session.add(EvaluationPlot(evaluation_id=evaluation_id, name=name, svg=svg))
    session.flush()


def names(session: Session, evaluation_id: str) -> list[str]:
    """Return the names of the evaluation's plots, sorted."""
    of_evaluation = select(EvaluationPlot.name).where(EvaluationPlot.evaluation_id == evaluation_id)
    return sorted(session.scalars(of_evaluation))


def get(session: Session, evaluation_id: str, name: str) -> str:
    """Return the plot. Raises NotFound, which lists the plots there are."""
    row = session.get(EvaluationPlot, (evaluation_id, name))
    if row is None:
        there = names(session, evaluation_id)
        listed = f"there are: {', '.join(there)}" if there else "it has none"
        missing = NotFound(f"The evaluation has no such plot; {listed}.", code="plot_not_found")
        missing.extra["plots"] = there
        raise missing
    return row.svg
