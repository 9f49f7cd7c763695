"""How many samples of a forget set have a control: an unseen sample of the same label, which an attack needs."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from service.lifecycle import SampleState
from service.store.samples import one_of
from service.store.tables import Sample


def pairs(session: Session, dataset_id: str, keys: Sequence[int]) -> int:
    """Return how many pairs of equal label the samples and the live audit pool make, none of either used twice."""
    audit = (Sample.dataset_id == dataset_id, Sample.pool == "audit", Sample.state == SampleState.LIVE)
    controls = _by_label(session, *audit)
    named = _by_label(session, one_of(session, Sample.id, keys))
    return sum(min(count, controls.get(label, 0)) for label, count in named.items())


def _by_label(session: Session, *where: ColumnElement[bool]) -> dict[int, int]:
    rows = session.execute(select(Sample.label, func.count()).where(*where).group_by(Sample.label))
    return {row[0]: row[1] for row in rows}
