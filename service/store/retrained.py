"""The yardstick of an approximate method: a version that was trained on exactly what the forget set leaves."""

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.lifecycle import VersionState
from service.store import versions
from service.store.tables import Dataset, Model, Version

# Their bytes are kept; an upload that is still being judged may not even fit the network.
_STORED = (VersionState.ACTIVE, VersionState.QUARANTINED)


def newest(session: Session, model: Model, retained: Sequence[int]) -> Version | None:
    """Return the model's newest version that was trained from scratch on these train samples and on no other.

    Such a version stands where a model was trained by its recipe while the request waited, or where an exact method
    forgot the set before and an upload brought it back. An upload is none: what it was trained on is only declared.
    Nor is a model held for a person: it is no version yet, and an exact one is held only when it is ruined.
    """
    found = session.scalars(
        select(Version)
        .join(Dataset, Dataset.id == model.dataset_id)
        .where(
            Version.model_id == model.id,
            Version.state.in_(_STORED),
            or_(Version.origin == "trained", Version.role == "retrained"),
            Version.dataset_digest == Dataset.digest,
            Version.training_samples == len(retained),
        )
        .order_by(Version.number.desc())
    ).all()
    # As many as are retained, and all of those: the same set.
    lacking = versions.exclusions(session, [version.id for version in found], retained) if found else {}
    return next((version for version in found if version.id not in lacking), None)
