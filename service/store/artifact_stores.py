"""Which artifact store is the database's own, and which bytes would be in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.lifecycle import VersionState
from service.store import audit
from service.store.tables import (
    Job,
    OwnArtifactStore,
    PreparedFile,
    ReferenceFile,
    TrainingCheckpoint,
    Version,
    table_of,
)
from service.store.types import new_id, now
from service.store.versions import LIVE_STATES

NAMED_BESIDE_VERSIONS = (
    Job.candidate_sha256,
    ReferenceFile.sha256,
    PreparedFile.sha256,
    TrainingCheckpoint.sha256,
)
"""Weights that wait for approval, reference models' logits, preparations, and trainings' checkpoints."""

MOST_ASKED = 50


@dataclass(frozen=True, kw_only=True)
class Vouching:
    """Digests by which a store shows whose it is.

    ``expected`` must be there: weights in circulation. ``possible`` may be: bytes that rows name, and that a crash may
    have deleted already.
    """

    expected: Sequence[str]
    possible: Sequence[str]


def own(session: Session) -> OwnArtifactStore | None:
    """Return the row as it is now."""
    return session.get(OwnArtifactStore, 1, populate_existing=True)


def propose(session: Session) -> None:
    """Draw a name, unless there is one."""
    row: dict[str, Any] = {"id": 1, "store_id": new_id("ast"), "adopted_at": None}
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    session.execute(insert(table_of(OwnArtifactStore)).values(row).on_conflict_do_nothing())


def hold(session: Session) -> OwnArtifactStore:
    """Return the row, which nobody else changes until the commit."""
    return session.scalars(select(OwnArtifactStore).with_for_update()).one()


def vouching(session: Session) -> Vouching:
    """Return what to look for; the newest, and not all of it."""
    live = select(Version.sha256).where(Version.state.in_(LIVE_STATES)).order_by(Version.id.desc()).limit(MOST_ASKED)
    others = select(Version.sha256).where(Version.state.not_in((*LIVE_STATES, VersionState.PURGED)))
    possible = list(session.scalars(others.order_by(Version.id.desc()).limit(MOST_ASKED)))
    for column in NAMED_BESIDE_VERSIONS:
        possible += [str(sha256) for sha256 in session.scalars(select(column).where(column.is_not(None)).limit(1))]
    return Vouching(expected=list(session.scalars(live)), possible=possible)


def adopt(session: Session, store_id: str, *, told: dict[str, Any]) -> None:
    """Take another store as the database's own, because a person says so."""
    row = own(session)
    told = {"store_id": store_id, "before": row.store_id if row else None, **told}
    propose(session)
    session.execute(update(OwnArtifactStore).values(store_id=store_id, adopted_at=now()))
    audit.record(session, "artifact_store.adopted", subject=f"artifact-store/{store_id}", payload=told)
