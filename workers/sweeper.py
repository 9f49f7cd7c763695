"""Finds lost work: frees expired leases, rings again for jobs nobody picked up, purges retired bytes."""

import itertools
import os
import threading
from collections.abc import Callable

import structlog
from kombu.exceptions import OperationalError

from service import outages
from service.lifecycle import JobKind, JobStatus
from service.store import candidates, jobs, preparations, references, replays, retirement, workers
from service.store.stillness import Watch
from workers import attempt_end, caches, gpu_memory, leftovers, own_store, resumption
from workers.bench import Bench
from workers.retirement import purge

# Listing the whole store is not cheap everywhere, and orphans are rare: once at the start, then seldom.
ORPHAN_TURNS = 120
# While nothing happens and no job waits or runs, a round is due every so many turns, a sign of life more often.
REST_TURNS, SIGN_TURNS = 6, 2
log = structlog.get_logger()


class Sweeper:
    """A thread of the worker process; several workers may sweep at once without harm."""

    def __init__(self, bench: Bench, ring: Callable[[str], None]) -> None:
        self._bench, self._ring = bench, ring
        self._thread = threading.Thread(target=self._loop, daemon=True, name="sweeper")
        self._watch, self._rested, self._has_work = Watch(bench.database), 0, True

    def start(self) -> None:
        self._thread.start()

    def _loop(self) -> None:
        for turn in itertools.count():
            try:
                self._turn()
                if turn % ORPHAN_TURNS == 0:
                    tidy(self._bench)
            except Exception as error:  # noqa: BLE001 - a thread's boundary: a sweeper that ends is work lost
                if outages.lacking(error) is not None:
                    # Living workers could not lengthen their leases either.
                    self._bench.clock.doubt_leases(self._bench.settings.lease_seconds)
                log.warning("sweep.failed", error=type(error).__name__)
            if self._bench.stopping.wait(self._bench.settings.sweep_seconds):
                self._sign_off()
                return

    def _sign_off(self) -> None:
        try:
            with self._bench.database.writing() as session:
                workers.left(session, self._bench.owner)
        except Exception as error:  # noqa: BLE001 - a thread's boundary: it counts as gone by its silence
            log.warning("worker.not_signed_off", error=type(error).__name__)

    def _turn(self) -> None:
        """Do a round; while everything is at rest, show a sign of life and little else."""
        self._rested += 1
        # Asked first: what is committed during the round is then seen at the next turn.
        due = self._watch.changed() or self._has_work or self._rested >= REST_TURNS
        if due:
            self._rested, self._has_work = 0, True  # and stays so if the round fails
            sweep(self._bench, self._ring)
            with self._bench.database.reading() as session:
                self._has_work = jobs.any_open(session)
            return
        if self._rested % SIGN_TURNS == 0:
            sign(self._bench)
        self._bench.runner.release_idle()


def sign(bench: Bench) -> bool:
    """Show that this worker lives, unless its clock or its artifact store is wrong; return whether it showed it."""
    if not own_store.is_ours(bench):
        return False
    with bench.database.writing() as session:
        bench.clock.look(session, lease_seconds=bench.settings.lease_seconds)
        if bench.clock.is_off:
            log.error("clock.skewed", **bench.clock.told())
            return False
        workers.seen(session, bench.owner, gpu_memory=_gpu_memory(bench))
    return True


def sweep(bench: Bench, ring: Callable[[str], None]) -> None:
    """Show a sign of life, if there is nothing against it, and do one round, unless a replay is due."""
    if not sign(bench):
        return
    if _waits_for_replay(bench):
        return
    # Each in a transaction of its own: together they would lock jobs after datasets (docs/lock-order.md).
    _free_lost(bench)
    with bench.database.writing() as session:
        candidates.drop_of_cancelled(session)
    with bench.database.writing() as session:
        retirement.retire_same_weights(session)
    with bench.database.writing() as session:
        for model in references.to_trim(session):
            references.ask_for(session, model, JobKind.TRIM)
    with bench.database.writing() as session:
        waiting = jobs.to_ring(session, older_than_seconds=2 * bench.settings.sweep_seconds)
    for job_id in waiting:
        if not _rung(ring, job_id):
            break  # the broker is away: the next sweep but one rings for all of them again
    purge(bench)
    resumption.clear(bench)
    leftovers.remove_scratch(bench)
    caches.clean(bench)
    leftovers.remove_strange_caches(bench)
    bench.runner.release_idle()


def _free_lost(bench: Bench) -> None:
    """Give back the jobs whose worker has gone silent, each by itself."""
    skew = bench.clock.skew_seconds
    with bench.database.writing() as session:
        jobs.cut_leases(session, lease_seconds=bench.settings.lease_seconds, skew_seconds=skew)
        lost = jobs.expired(session, skew_seconds=skew) if bench.clock.trusts_leases else ()
    for job_id in lost:
        with bench.database.writing() as session:
            job = jobs.take_expired(session, job_id, skew_seconds=skew)
            if job is None:
                continue
            log.warning("lease.expired", job_id=job.id, attempts=job.attempts)
            jobs.give_back(session, job, max_attempts=bench.settings.max_attempts, reason="lease_expired")
            if job.status == JobStatus.POISONED:
                attempt_end.give_up(session, job, job.error or {}, bench.suppression_key, status=None)


def tidy(bench: Bench) -> None:
    """Delete bytes that nobody names and ask for preparations that are missing, unless a replay is due.

    Before a replay an entry would take the number of one that is to come back.
    """
    if not own_store.is_ours(bench) or _waits_for_replay(bench):
        return
    leftovers.remove_orphans(bench)
    with bench.database.writing() as session:
        preparations.ask_where_missing(session)


def _waits_for_replay(bench: Bench) -> bool:
    with bench.database.reading() as session:
        return replays.pending(session) is not None


def _gpu_memory(bench: Bench) -> tuple[int, int] | None:
    # The processes of one machine see each GPU; the first that this one may use is the one its child takes.
    return gpu_memory.read(_first_visible()) if bench.settings.device != "cpu" else None


def _first_visible() -> int:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return int(first) if first.isdigit() else 0


def _rung(ring: Callable[[str], None], job_id: str) -> bool:
    try:
        ring(job_id)
    except (OperationalError, OSError) as error:
        log.warning("bell.not_rung", job_id=job_id, error=type(error).__name__)
        return False
    return True
