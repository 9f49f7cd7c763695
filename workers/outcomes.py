"""What becomes of what the child returned: its bytes are stored first, then one transaction names them."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy.orm import Session

from service import faults
from service.faults import Step
from service.lifecycle import JobKind
from service.store import digests, reindexing
from service.store.jobs import Claim
from workers import publish, publish_prepared, reexecution
from workers.bench import Bench
from workers.ladder import after
from workers.order_parts import Prepared
from workers.publish_prepared import Kept
from workers.reexecution import Run
from workers.runner import ChildFailed

WEIGHTS_FILE, INDEX_FILE, REFERENCES_FILE = "weights.safetensors", "index.jsonl", "references.safetensors"


def record(bench: Bench, claim: Claim, prepared: Prepared, result: dict[str, Any], folder: Path, *, run: Run) -> None:
    """Store what the child left in the folder and end the attempt by it; ``run`` has the child do another order.

    Raises LeaseLost, TrainingSetChanged, Unconfirmed, and ChildLost where the child was to do it again.
    """
    match JobKind(claim.kind):
        case JobKind.INDEX:
            publish.index(bench.database, claim, result, folder / INDEX_FILE)
        case JobKind.REINDEX:
            _reindex(bench, claim, result, folder / INDEX_FILE)
        case JobKind.VALIDATE:
            with bench.database.writing() as session:
                publish.validated(session, claim, result["faults"])
        case JobKind.TRAIN:
            with _stored(bench, result, folder) as (session, weights, files):
                publish.trained(session, claim, prepared, result, weights, files)
        case JobKind.PREPARE_VERSION:
            with _kept(bench, result, folder) as (session, files):
                publish_prepared.version_prepared(session, claim, files)
        case JobKind.PREPARE | JobKind.TRIM:
            _publish_references(bench, claim, prepared, result, folder / REFERENCES_FILE)
        case JobKind.ERASE:
            _publish_erased(bench, claim, prepared, result, folder, run=run)


def _reindex(bench: Bench, claim: Claim, result: dict[str, Any], rows: Path) -> None:
    try:
        with bench.database.writing() as session:
            dataset_id = publish.reindexed(session, claim, result, rows, bench.suppression_key)
    except reindexing.ReindexRefused as error:
        raise ChildFailed({"code": error.code, "detail": error.detail}) from None
    # It may hold images of samples that the source has no more.
    shutil.rmtree(bench.settings.data_dir / "cache" / dataset_id, ignore_errors=True)


def _publish_erased(
    bench: Bench, claim: Claim, prepared: Prepared, result: dict[str, Any], folder: Path, *, run: Run
) -> None:
    step = after(prepared.tried, result["report"]["gate"])
    if step.rung is not None:
        with bench.database.writing() as session:
            publish.climbed(session, claim, prepared, step.rung, result=result)
        return
    # A result that is held may be published yet, without any more work; so it is looked at now.
    result = reexecution.accounted(bench, claim, prepared, result, folder, run=run)
    with _stored(bench, result, folder) as (session, weights, files):
        if step.why is None:
            publish.erased(session, claim, prepared, result, weights, files, bench.suppression_key)
        else:
            # What came with a model that is held is not kept: only its weights wait for approval.
            publish.held(session, claim, prepared, result, weights, bench.suppression_key, why=step.why)


@contextmanager
def _stored(
    bench: Bench, result: dict[str, Any], folder: Path
) -> Iterator[tuple[Session, publish_prepared.Stored, list[Kept]]]:
    """Store the weights, and what the child prepared, and open the transaction that names them."""
    file = folder / WEIGHTS_FILE
    weights = bench.artifacts.put(file), file.stat().st_size
    with _kept(bench, result, folder, also={file: weights[0]}) as (session, files):
        yield session, weights, files


@contextmanager
def _kept(
    bench: Bench, result: dict[str, Any], folder: Path, *, also: Mapping[Path, str] = MappingProxyType({})
) -> Iterator[tuple[Session, list[Kept]]]:
    """Store what the child prepared, and open the transaction that names it, and what is stored ``also``.

    Bytes first, row second: a crash in between leaves an orphan that the next attempt overwrites or a sweep removes.
    """
    made = {folder / each["file"]: each for each in result.get("prepared", [])}
    kept = [
        Kept(
            name=each["name"],
            stored=(bench.artifacts.put(path), path.stat().st_size),
            samples=each["samples"],
            seconds=each["seconds"],
        )
        for path, each in made.items()
    ]
    faults.reach(Step.BEFORE_PUBLISHING)
    with bench.database.writing() as session:
        stored = {path: file.stored[0] for path, file in zip(made, kept, strict=True)} | dict(also)
        digests.hold_all(session, stored.values())
        for path, sha256 in stored.items():
            bench.artifacts.ensure(path, sha256)
        yield session, kept
    faults.reach(Step.AFTER_PUBLISHING)


def _publish_references(bench: Bench, claim: Claim, prepared: Prepared, result: dict[str, Any], file: Path) -> None:
    digest = bench.artifacts.put(file)
    with bench.database.writing() as session:
        digests.hold(session, digest)
        bench.artifacts.ensure(file, digest)
        publish_prepared.references_made(session, claim, prepared, result, digest)
