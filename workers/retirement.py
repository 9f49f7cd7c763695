"""Deletes the weights that know erased samples, and what came of them, and proves them absent.

Bytes are deleted inside the transaction that says so. A crash between the two leaves a version that is retired and
has no bytes: the next sweep finds them absent and says so then.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service import faults, outages, weights_header
from service.errors import InvalidRequest, NotFound
from service.faults import Step
from service.lifecycle import VersionState
from service.store import audit, candidates, digests, preparations, residuals, versions
from service.store.residuals import Entry, State
from service.store.tables import Job, Model, Version
from service.store.types import new_id
from workers.bench import Bench

log = structlog.get_logger()


def purge(bench: Bench) -> None:
    """Delete the bytes of retired and rejected versions, and what else no row names any more; prove them absent."""
    digest_contents(bench)
    with bench.database.reading() as session:
        found = versions.to_purge(session, after=bench.purges.versions)
        detached = residuals.detached(session, after=bench.purges.detached)
    # On from the last one looked at, and from the first again after the end: what cannot be deleted is come back to.
    bench.purges.versions = found[-1].id if len(found) == versions.PURGES_AT_ONCE else ""
    bench.purges.detached = detached[-1] if len(detached) == versions.PURGES_AT_ONCE else ""
    for version in found:
        with _going_on("purge.failed", version_id=version.id):
            _purge_version(bench, version)
    for sha256 in detached:
        with _going_on("purge.failed", sha256=sha256):
            _purge_detached(bench, sha256)


@contextmanager
def _going_on(event: str, **concerned: str) -> Iterator[None]:
    """Log what the artifact store refuses, so that bytes which cannot be deleted keep no others from it."""
    try:
        yield
    except Exception as error:
        refused = isinstance(error, OSError) or outages.lacking(error) is not None
        if isinstance(error, SQLAlchemyError) or not refused:
            raise
        log.error(event, error=type(error).__name__, **concerned)


def digest_contents(bench: Bench) -> None:
    """Digest the tensors of versions that came without, while their bytes are there to be read."""
    with bench.database.reading() as session:
        found = versions.without_content_digest(session, after=bench.purges.contents)
    bench.purges.contents = found[-1].id if len(found) == versions.PURGES_AT_ONCE else ""
    for version in found:
        with _going_on("purge.digest_failed", version_id=version.id):
            content = _content_digest(bench, version)
            with bench.database.writing() as session:
                session.get_one(Version, version.id).content_sha256 = content


def _content_digest(bench: Bench, version: Version) -> str:
    """Return the digest of the version's tensors, or of its bytes where they are no tensors or are not there."""
    try:
        with bench.artifacts.open(version.sha256) as file:
            return weights_header.content_digest(file, size=version.size_bytes)
    except (InvalidRequest, NotFound):
        return version.sha256


def _purge_version(bench: Bench, version: Version) -> None:
    with bench.database.writing() as session:
        # An upload of the same bytes comes before, and is seen, or after, and stores them again.
        held = {version.sha256, *_digests_beside(session, version)}
        digests.hold_all(session, held)
        stale = candidates.made_from(session, version)
        row = session.scalar(select(Version).where(Version.id == version.id).with_for_update(key_share=True))
        if row is None or row.state not in (VersionState.RETIRED, VersionState.REJECTED):
            return
        if not held.issuperset(_digests_beside(session, version)):
            return  # what came in between goes with the version at the next sweep
        if versions.digest_in_use(session, row.sha256):
            return
        if row.content_sha256 is None:
            row.content_sha256 = _content_digest(bench, row)
        size = bench.artifacts.size(row.sha256)
        if not bench.artifacts.purge(row.sha256):
            log.error("purge.failed", version_id=row.id)
            return
        faults.reach(Step.PURGING)
        beside = _purge_what_came_of(bench, session, row, stale)
        if beside is None:
            log.error("purge.failed", version_id=row.id)
            return
        checked = {"store": bench.artifacts.kind, "bytes_before": size, "bytes_absent": True}
        versions.move(session, row, VersionState.PURGED, **checked, **beside)


def _digests_beside(session: Session, version: Version) -> list[str]:
    prepared = [file.sha256 for file in preparations.of_version(session, version.id)]
    return [*prepared, *candidates.digests_made_from(session, version)]


def _purge_what_came_of(
    bench: Bench, session: Session, version: Version, stale: Sequence[Job]
) -> dict[str, int] | None:
    """Delete what was prepared of the version, and the candidates of the held jobs that came from it.

    The digests of all of them are held. Return how many files are proven absent, and how many stay because another row
    names equal bytes; None where one could not be deleted.
    """
    name = session.get_one(Model, version.model_id).name
    entry = residuals.entry_of_version("version.purged", version, name)
    prepared = [residuals.of_preparation(file, version, name) for file in preparations.of_version(session, version.id)]
    waiting = [candidates.artefact_of(job) for job in stale]
    preparations.forget(session, version)
    for job in stale:
        candidates.forget(job)
    session.flush()
    found = {"preparations_absent": 0, "preparations_shared": 0, "candidates_absent": 0}
    for artefact in [*prepared, *waiting]:
        sha256 = str(artefact.sha256)
        if preparations.in_use(session, sha256):
            found["preparations_shared"] += 1
            residuals.advance(session, artefact, state=State.SHARED, entry=entry)
        elif bench.artifacts.purge(sha256):
            found["candidates_absent" if artefact in waiting else "preparations_absent"] += 1
            residuals.advance(session, artefact, state=State.PURGED, entry=entry)
        else:
            return None
    return found


def _purge_detached(bench: Bench, sha256: str) -> None:
    """Delete bytes beside the weights that the ledger says held samples, once nobody names them."""
    with bench.database.writing() as session:
        digests.hold(session, sha256)
        if preparations.in_use(session, sha256):
            return
        size = bench.artifacts.size(sha256)
        if not bench.artifacts.purge(sha256):
            log.error("purge.failed", sha256=sha256)
            return
        purge_id = new_id("prg")
        entry = Entry(action="artifact.purged", kind="purge", ref=purge_id)
        concerned = residuals.detached_purged(session, sha256, entry=entry)
        checked = {"sha256": sha256, "store": bench.artifacts.kind, "bytes_before": size, "bytes_absent": True}
        links = {"purge": purge_id, "sha256": sha256, "request": sorted(set(concerned))}
        audit.record(session, "artifact.purged", subject=f"artifact/{sha256}", payload=checked, links=links)
