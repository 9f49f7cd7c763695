"""Taking a source in again: what stayed keeps its row and its place, what is new is added, what was erased stays so.

A place (``position``) is where a sample stands in the decoded dataset, and what models trained in shards were cut by;
it never changes. ``source_row`` says where the source has the sample by now.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import bindparam, func, insert, literal, select, update
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.lifecycle import JOB_BUSY, JobKind, JobStatus, SampleState
from service.store import audit, datasets, jobs, requests, samples, versions
from service.store.tables import (
    Dataset,
    DeletionRequest,
    Job,
    Model,
    RequestSample,
    Sample,
    Version,
    VersionExclusion,
    table_of,
)
from service.store.types import now

NOWHERE = -1
SourceRow = tuple[str, str, str, int]
"""Sample ID, split, pool and label, in the source's order."""
_SAMPLES = table_of(Sample)


class ReindexRefused(Exception):
    """The source cannot be taken in as it is now; the message says why and names no sample."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


@dataclass(kw_only=True)
class _Sorted:
    """The source's rows by what becomes of them. ``stayed``: key -> row of the source."""

    stayed: dict[int, int] = field(default_factory=dict)
    returned: list[int] = field(default_factory=list)
    added: list[dict[str, Any]] = field(default_factory=list)
    suppressed: int = 0
    relabelled: int = 0


def ask_for(session: Session, name: str) -> Job:
    """Queue the dataset's re-indexing, unless it waits or runs already. Raises NotFound, Conflict."""
    dataset = datasets.by_name(session, name)
    if dataset.digest is None:
        detail = f"Dataset {name!r} was never indexed; it is {dataset.state}."
        raise Conflict(detail, code="dataset_not_ready")
    return open_job(session, dataset.id) or jobs.create(session, JobKind.REINDEX, dataset_id=dataset.id)


def open_job(session: Session, dataset_id: str) -> Job | None:
    """Return the re-indexing that waits or runs."""
    going = (JobStatus.QUEUED, *JOB_BUSY)
    query = select(Job).where(Job.dataset_id == dataset_id, Job.kind == JobKind.REINDEX, Job.status.in_(going))
    return session.scalar(query.limit(1))


def others_busy(session: Session, job: Job) -> bool:
    """Say whether another job works with the dataset as it was."""
    query = select(Job.id).where(Job.dataset_id == job.dataset_id, Job.id != job.id, Job.status.in_(JOB_BUSY))
    return session.scalar(query.limit(1)) is not None


def places(session: Session, dataset: Dataset) -> list[int | None] | None:
    """Return the source's row for each place, None where the source has it no more; None if they are the same."""
    if dataset.reindexed is None:
        return None
    rows = session.execute(
        select(Sample.position, Sample.source_row).where(Sample.dataset_id == dataset.id).order_by(Sample.position)
    ).all()
    found: list[int | None] = [None] * (rows[-1].position + 1)
    for position, row in rows:
        found[position] = position if row is None else (row if row != NOWHERE else None)
    return found


def apply(
    session: Session, dataset: Dataset, rows: Iterable[SourceRow], facts: dict[str, Any], *, suppression_key: bytes
) -> None:
    """Take the rows in, in one transaction that holds the dataset. Raises ReindexRefused with nothing changed.

    ``facts``: what reading the source gave: digest, number of classes and image shape.
    """
    _refuse_other_shape(session, dataset, facts)
    known = session.execute(
        select(Sample.id, Sample.sample_id, Sample.state, Sample.label).where(
            Sample.dataset_id == dataset.id, Sample.sample_id.is_not(None)
        )
    ).all()
    found = _sort(session, dataset, rows, {str(row.sample_id): row for row in known}, suppression_key)
    vanished = [row for row in known if row.id not in found.stayed and row.state != SampleState.VANISHED]
    named = sum(row.state == SampleState.PENDING for row in vanished)
    _refuse_unworkable(found.relabelled, named)
    _write(session, dataset, found, [row.id for row in vanished])
    counts = {
        "stayed": len(found.stayed) - len(found.returned),
        "added": len(found.added),
        "returned": len(found.returned),
        "vanished": len(vanished),
        "suppressed_skipped": found.suppressed,
    }
    _note(session, dataset, facts, counts, total=len(found.stayed) + len(found.added))


def _refuse_other_shape(session: Session, dataset: Dataset, facts: dict[str, Any]) -> None:
    if list(facts["image_shape"]) != list(dataset.image_shape or []):
        detail = f"Images are {facts['image_shape']} now and were {dataset.image_shape}; register under a new name."
        raise ReindexRefused("image_shape_changed", detail)
    used = session.scalar(select(Model.id).where(Model.dataset_id == dataset.id).limit(1)) is not None
    if used and facts["num_classes"] > dataset.num_classes:
        detail = (
            f"The source has {facts['num_classes']} classes now, the dataset's models answer {dataset.num_classes}; "
            "register it under a new name."
        )
        raise ReindexRefused("classes_added", detail)


def _refuse_unworkable(relabelled: int, named: int) -> None:
    if relabelled:
        detail = (
            f"{relabelled} samples have another label than when they were indexed, and versions were trained with the "
            "old ones. Give what was relabelled new ids, or register the source under a new name."
        )
        raise ReindexRefused("labels_changed", detail)
    if named:
        detail = (
            f"{named} samples that open deletion requests name are not in the source any more, and the work still has "
            "to read them. Put them back until the requests are over, then re-index."
        )
        raise ReindexRefused("named_samples_vanished", detail)


def _sort(
    session: Session, dataset: Dataset, rows: Iterable[SourceRow], known: dict[str, Any], suppression_key: bytes
) -> _Sorted:
    found = _Sorted()
    numbered = enumerate(rows)
    while chunk := list(islice(numbered, samples.INSERT_CHUNK)):
        unknown = []
        for source_row, row in chunk:
            have = known.get(row[0])
            if have is None:
                unknown.append((source_row, row))
                continue
            found.stayed[have.id] = source_row
            found.relabelled += have.label != row[3]
            if have.state == SampleState.VANISHED:
                found.returned.append(have.id)
        erased = samples.suppressed(session, suppression_key, dataset.id, [row[0] for _, row in unknown])
        found.suppressed += len(erased)
        found.added += [_new(dataset, source_row, row) for source_row, row in unknown if row[0] not in erased]
    return found


def _new(dataset: Dataset, source_row: int, row: SourceRow) -> dict[str, Any]:
    sample_id, split, pool, label = row
    return {
        "dataset_id": dataset.id,
        "sample_id": sample_id,
        "source_row": source_row,
        "split": split,
        "pool": pool,
        "label": label,
        "state": SampleState.LIVE,
    }


def _write(session: Session, dataset: Dataset, found: _Sorted, vanished: Sequence[int]) -> None:
    mine = Sample.dataset_id == dataset.id
    # Whatever is not in the source, erased or vanished, is nowhere in it; then what is gets its row.
    session.execute(update(Sample).where(mine).values(source_row=NOWHERE))
    if found.stayed:
        placed = update(_SAMPLES).where(_SAMPLES.c.id == bindparam("key")).values(source_row=bindparam("row"))
        session.connection().execute(placed, [{"key": key, "row": row} for key, row in found.stayed.items()])
    samples.set_state(session, vanished, SampleState.VANISHED)
    samples.set_state(session, found.returned, SampleState.LIVE)
    _withhold_named(session, found.returned)
    first = int(session.scalar(select(func.max(Sample.position)).where(mine)) or 0) + 1
    for number, row in enumerate(found.added):
        row["position"] = first + number
    for chunk in _chunks(found.added):
        samples.insert_many(session, chunk)
    if found.added:
        _exclude_from_versions(session, dataset, first)


def _chunks(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), samples.INSERT_CHUNK):
        yield rows[start : start + samples.INSERT_CHUNK]


def _withhold_named(session: Session, returned: Sequence[int]) -> None:
    """Keep what an open request names out of the pools, although it has come back."""
    named = (
        select(RequestSample.sample_id)
        .join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
        .where(DeletionRequest.status.in_(requests.OPEN), samples.one_of(session, RequestSample.sample_id, returned))
    )
    samples.set_state(session, list(session.scalars(named.distinct())), SampleState.PENDING)


def _exclude_from_versions(session: Session, dataset: Dataset, first: int) -> None:
    """Record that no version there is was trained on the new samples: nothing is to be erased from it for them."""
    new = (
        select(Version.id, Sample.id, literal(versions.ABSENT))
        .join(Model, Model.id == Version.model_id)
        .join(Sample, Sample.dataset_id == Model.dataset_id)
        .where(
            Model.dataset_id == dataset.id,
            Version.state.in_(versions.LIVE_STATES),
            Sample.pool == "train",
            Sample.position >= first,
        )
    )
    session.execute(insert(VersionExclusion).from_select(["version_id", "sample_id", "cause"], new))


def _note(session: Session, dataset: Dataset, facts: dict[str, Any], counts: dict[str, int], *, total: int) -> None:
    before, dataset.digest, dataset.error = dataset.digest, facts["digest"], None
    dataset.num_samples, dataset.num_classes = total, max(dataset.num_classes, facts["num_classes"])
    dataset.reindexed = {"at": now().isoformat(), **counts}
    samples.take_statistics(session)
    audit.record(
        session,
        "dataset.reindexed",
        subject=f"dataset/{dataset.name}",
        payload={"digest_before": before, "digest": dataset.digest, "num_samples": total, **counts},
        links={"dataset": dataset.name},
    )
