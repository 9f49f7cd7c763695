"""Finds lost work: frees expired leases, rings again for jobs nobody picked up, purges retired bytes."""

import itertools
import threading
from collections.abc import Callable

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.lifecycle import JobKind, JobStatus, VersionState
from service.store import digests, jobs, preparations, references, versions, workers
from service.store.tables import Version
from workers import attempt_end, leftovers
from workers.bench import Bench

# Listing the whole store is not cheap everywhere, and orphans are rare: once at the start, then seldom.
ORPHAN_TURNS = 120
log = structlog.get_logger()


class Sweeper:
    """A thread of the worker process; several workers may sweep at once without harm."""

    def __init__(self, bench: Bench, ring: Callable[[str], None]) -> None:
        self._bench, self._ring = bench, ring
        self._thread = threading.Thread(target=self._loop, daemon=True, name="sweeper")

    def start(self) -> None:
        self._thread.start()

    def _loop(self) -> None:
        for turn in itertools.count():
            try:
                sweep(self._bench, self._ring)
                if turn % ORPHAN_TURNS == 0:
                    leftovers.remove_orphans(self._bench)
                    with self._bench.database.writing() as session:
                        preparations.ask_where_missing(session)
            except Exception as error:  # noqa: BLE001 - a thread's boundary: a sweeper that ends is work lost
                log.warning("sweep.failed", error=type(error).__name__)
            if self._bench.stopping.wait(self._bench.settings.sweep_seconds):
                return


def sweep(bench: Bench, ring: Callable[[str], None]) -> None:
    """Do one round."""
    with bench.database.writing() as session:
        workers.seen(session, bench.owner)
        for job in jobs.expired(session):
            log.warning("lease.expired", job_id=job.id, attempts=job.attempts)
            jobs.give_back(session, job, max_attempts=bench.settings.max_attempts, reason="lease_expired")
            if job.status == JobStatus.POISONED:
                attempt_end.give_up(session, job, job.error or {}, bench.suppression_key, status=None)
        session.flush()
        for model in references.to_trim(session):
            references.ask_for(session, model, JobKind.TRIM)
        session.flush()
        waiting = jobs.to_ring(session, older_than_seconds=2 * bench.settings.sweep_seconds)
    for job_id in waiting:
        ring(job_id)
    purge_retired(bench)
    leftovers.clean_caches(bench)
    leftovers.remove_scratch(bench)
    leftovers.remove_strange_caches(bench)
    bench.runner.release_idle()


def purge_retired(bench: Bench) -> None:
    """Delete the bytes of retired and rejected versions, and prove them absent."""
    with bench.database.reading() as session:
        found = versions.to_purge(session)
    for version in found:
        _purge(bench, version)


def _purge(bench: Bench, version: Version) -> None:
    with bench.database.writing() as session:
        # An upload of the same bytes comes before, and is seen, or after, and stores them again.
        digests.hold(session, version.sha256)
        row = session.scalar(select(Version).where(Version.id == version.id).with_for_update())
        if row is None or row.state not in (VersionState.RETIRED, VersionState.REJECTED):
            return
        shared = versions.digest_in_use(session, row.sha256)
        absent = False if shared else bench.artifacts.purge(row.sha256)
        if not shared and not absent:
            log.error("purge.failed", version_id=row.id)
            return
        prepared = _purge_preparations(bench, session, row)
        if prepared is None:
            log.error("purge.failed", version_id=row.id)
            return
        gone = {"bytes_absent": absent, "shared_with_live_version": shared, **prepared}
        versions.move(session, row, VersionState.PURGED, **gone)


def _purge_preparations(bench: Bench, session: Session, version: Version) -> dict[str, int] | None:
    """Delete what was prepared of the version, and the candidates of held jobs that came from it.

    Return how many files are proven absent, and how many stay because another version's are equal; None where one
    could not be deleted.
    """
    digests_of = [file.sha256 for file in preparations.of_version(session, version.id)]
    candidates = preparations.drop_of(session, version)
    found = {"preparations_absent": 0, "preparations_shared": 0, "candidates_absent": 0}
    for sha256 in [*digests_of, *candidates]:
        digests.hold(session, sha256)
        kind = "candidates_absent" if sha256 in candidates else "preparations_absent"
        if preparations.in_use(session, sha256):
            found["preparations_shared"] += 1
        elif bench.artifacts.purge(sha256):
            found[kind] += 1
        else:
            return None
    return found
