"""Which samples may be read for a model: those that no open request takes away from it.

A request that is narrowed to some models leaves the samples with the others: what is trained for those goes on knowing
them, and their classes with them. A sample's state cannot say so, since it is the same for all models.
"""

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlalchemy.orm import Session

from service.lifecycle import SampleState
from service.store import requests
from service.store.samples import one_of
from service.store.tables import DeletionRequest, Model, RequestSample, Sample

_LIVE = Sample.state == SampleState.LIVE


def by(session: Session, model: Model) -> ColumnElement[bool]:
    """Return the condition on `Sample`: it is live, or all open requests that name it are narrowed to other models."""
    others = _narrowed_to_others(session, model)
    if not others:
        return _LIVE
    link = (RequestSample.sample_id == Sample.id, DeletionRequest.status.in_(requests.OPEN))
    naming = select(RequestSample.sample_id).join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
    others_alone = one_of(session, DeletionRequest.id, others)
    named_by_others = exists(naming.where(*link, others_alone).correlate(Sample))
    named_for_it = exists(naming.where(*link, ~others_alone).correlate(Sample))
    return or_(_LIVE, and_(Sample.state == SampleState.PENDING, named_by_others, ~named_for_it))


def _narrowed_to_others(session: Session, model: Model) -> list[str]:
    query = select(DeletionRequest.id, DeletionRequest.models).where(
        DeletionRequest.dataset_id == model.dataset_id,
        DeletionRequest.status.in_(requests.OPEN),
        DeletionRequest.scope == "partial",
    )
    return [request_id for request_id, names in session.execute(query) if model.name not in (names or [])]
