"""No two transactions deadlock on PostgreSQL, wherever in the one the other begins: docs/lock-order.md.

The first is stopped after each kind of statement that locks, until the second is done or waits for it. Both are rolled
back at the end, so that each round meets the same rows.
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from service.auth import Principal
from service.deps import Parts
from service.errors import ServiceError
from service.lifecycle import JobStatus, VersionState
from service.routes import versions as routes
from service.store import datasets, deadline_marks, decisions, jobs, models, requests, retirement, versions
from service.store.jobs import Claim, LeaseLost
from service.store.session import Database
from service.store.tables import DeletionRequest, Sample, Version
from service.store.types import now
from tests import factories
from tests.integration.test_decision_races import REPORT
from tests.integration.test_residuals import SECRETS, ask, publish
from workers import publish as publishing
from workers import sweeper, tasks
from workers.bench import Bench
from workers.order_parts import Prepared

# Of the rows that more than one transaction wants; what refers to one holds it too.
_LOCKS = re.compile(
    r"\A(UPDATE|INSERT INTO) (jobs|versions|deletion_requests|residuals|dataset_caches)\b"
    r"|\bFOR (NO KEY )?(UPDATE|SHARE)\b|advisory"
)
_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
_MOST_ROUNDS, _PATIENCE_SECONDS = 200, 30.0


class _Undone(Exception):
    """Raised at the end of each transaction."""


class _UndoingDatabase(Database):
    """Every transaction does what it does, and is then rolled back."""

    @contextmanager
    def writing(self) -> Iterator[Session]:
        with suppress(_Undone), super().writing() as session:
            yield session
            session.flush()
            raise _Undone


@dataclass(frozen=True, kw_only=True)
class World:
    """What the transactions are about. ``claim``: of the job that forgets what ``dying`` names of model ``dying``."""

    bench: Bench
    claim: Claim
    prepared: Prepared
    twin_request: str
    stale_request: str
    waiting_request: str
    approved_claim: Claim
    approved_parent: str
    candidate: Path
    lost_claim: Claim
    lost_parent: str


@pytest.fixture(scope="module")
def store_url(migrated_postgres_url: str) -> str:
    """SQLite has one writer, so nothing can deadlock there."""
    return migrated_postgres_url


@pytest.fixture(scope="module")
def world(bench: Bench) -> World:
    claim, prepared, dying = _being_erased(bench)
    _twin(bench, "twin", dying)
    stale = _same_as_a_retired_one(bench)
    waiting, lost, parent = _with_a_lost_job(bench)
    approved, approved_parent, candidate = _approved(bench)
    return World(
        bench=replace(bench, database=_UndoingDatabase(bench.database.engine)),
        claim=claim,
        prepared=prepared,
        twin_request=_due_by_now(bench, ask(bench, "twin", "train-0")),
        stale_request=_due_by_now(bench, stale),
        waiting_request=waiting,
        approved_claim=approved,
        approved_parent=approved_parent,
        candidate=candidate,
        lost_claim=lost,
        lost_parent=parent,
    )


def _trained(bench: Bench, *names: str, of: str = "") -> None:
    factories.dataset(bench, of or names[0])
    for name in names:
        factories.model(bench, name, of=of or name)
        factories.version(bench, name)


def _being_erased(bench: Bench) -> tuple[Claim, Prepared, Version]:
    """Have a worker work at a request; return its claim, what it prepared, and the version that is to go."""
    _trained(bench, "dying")
    ask(bench, "dying", "train-0")
    claim = jobs.claim_next(bench.database, owner="w", lease_seconds=3600)
    assert claim is not None
    with bench.database.writing() as session:
        jobs.hold_lease(session, claim).rung = "finetune"
        (version,) = versions.live(session, models.by_name(session, "dying").id)
        key = session.scalars(select(Sample.id).where(Sample.sample_id == "dying-train-0")).one()
    return claim, Prepared(order={}, parent_id=version.id, forget_keys=[key], excluded_keys=[key]), version


def _twin(bench: Bench, name: str, of: Version) -> None:
    """Add a dataset whose one model has the same weights as that version."""
    factories.dataset(bench, name)
    factories.model(bench, name, of=name)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        of_them: dict[str, Any] = {"sha256": of.sha256, "size_bytes": of.size_bytes}
        row = versions.create(session, model, state=VersionState.ACTIVE, role="original", origin="uploaded", **of_them)
        versions.count_training(session, row, model.dataset_id)


def _same_as_a_retired_one(bench: Bench) -> str:
    """Add weights that were retired elsewhere and that no sweep has found yet; return a request about them."""
    _trained(bench, "gone")
    with bench.database.reading() as session:
        (version,) = versions.live(session, models.by_name(session, "gone").id)
    publish(bench, "gone", ask(bench, "gone", "train-0"))
    _twin(bench, "stale", version)
    return ask(bench, "stale", "train-0")


def _with_a_lost_job(bench: Bench) -> tuple[str, Claim, str]:
    """Add a request with a job that waits for its bell and one whose worker died; return the latter's claim."""
    _trained(bench, "one", "two", of="waiting")
    request_id = ask(bench, "waiting", "train-0")
    with bench.database.writing() as session:
        first, second = (job for job, _ in requests.jobs(session, [request_id])[request_id])
        first.rung_at = None
        second.status, second.owner, second.fence, second.attempts = JobStatus.RUNNING, "w", 1, 1
        second.lease_until = now() - timedelta(minutes=1)
        (parent,) = versions.live(session, str(second.model_id))
    return request_id, Claim(job_id=second.id, kind=second.kind, fence=1, owner="w"), parent.id


def _approved(bench: Bench) -> tuple[Claim, str, Path]:
    """Have a worker claim a job whose candidate a person approved; return its parent and the candidate too."""
    _trained(bench, "approved")
    request_id = ask(bench, "approved", "train-0")
    path = bench.settings.data_dir / "candidate"
    path.write_bytes(factories.safetensors(w=[1.0, 2.0]))
    with bench.database.writing() as session:
        ((job, _),) = requests.jobs(session, [request_id])[request_id]
        (parent,) = versions.live(session, str(job.model_id))
        job.candidate_sha256, job.candidate_size = bench.artifacts.put(path), path.stat().st_size
        job.status, job.owner, job.fence, job.attempts = JobStatus.RUNNING, "w", 1, 1
        job.lease_until, job.parent_id = now() + timedelta(hours=1), parent.id
        job.approved_by, job.rung = "a person", "finetune"
    return Claim(job_id=job.id, kind=job.kind, fence=1, owner="w"), parent.id, path


def _due_by_now(bench: Bench, request_id: str) -> str:
    past = now() - timedelta(hours=1)
    with bench.database.writing() as session:
        of_it = update(DeletionRequest).where(DeletionRequest.id == request_id)
        session.execute(of_it.values(received_at=past - timedelta(days=31), due_at=past, next_mark_at=past))
    return request_id


def _publish(world: World) -> None:
    digest = hashlib.sha256(b"unlearned").hexdigest()
    with world.bench.database.writing() as session:
        weights = (digest, 4096)
        publishing.erased(session, world.claim, world.prepared, {"report": REPORT}, weights, [], SECRETS.suppression)


def _announce_twin(world: World) -> None:
    with world.bench.database.writing() as session:
        deadline_marks.announce(session, world.twin_request)


def _announce_stale(world: World) -> None:
    with world.bench.database.writing() as session:
        deadline_marks.announce(session, world.stale_request)


def _sweep(world: World) -> None:
    sweeper.sweep(world.bench, lambda _: None)


def _deny(world: World) -> None:
    with world.bench.database.writing() as session:
        decisions.deny(session, world.waiting_request, reason="no_match", note=None, by="key_test")


def _begin_attempt(world: World) -> None:
    prepared = Prepared(order={"dataset": {}}, parent_id=world.lost_parent)
    tasks._ended_at_once(world.bench, world.lost_claim, prepared)


def _publish_approved(world: World) -> None:
    prepared = Prepared(order={"dataset": {}}, parent_id=world.approved_parent, forget_keys=[], excluded_keys=[])
    assert tasks._ended_at_once(world.bench, world.approved_claim, prepared)


def _upload_candidate(world: World) -> None:
    bench = world.bench
    bell: Any = Mock()
    parts = Parts(
        settings=bench.settings, database=bench.database, artifacts=bench.artifacts, bell=bell, secrets=SECRETS
    )
    routes._keep("approved", world.candidate, None, parts, Principal(id="key_test", name="test", scopes=frozenset()))


def _claim(world: World) -> None:
    jobs.claim_next(world.bench.database, owner="other", lease_seconds=60)


Act = Callable[[World], None]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_publish, _announce_twin),
        (_sweep, _announce_stale),
        (_sweep, _deny),
        (_begin_attempt, _deny),
        (_publish_approved, _upload_candidate),
        (_claim, _announce_stale),
    ],
    ids=lambda act: act.__name__.strip("_"),
)
def test_no_two_transactions_wait_for_each_other(world: World, first: Act, second: Act) -> None:
    rounds, waited = 0, 0
    while rounds < _MOST_ROUNDS:
        schedule = _Schedule(world, stop_at=rounds, second=second)
        schedule.run(first)
        assert schedule.deadlocks == [], f"stopped after {schedule.stopped_after}"
        if schedule.stopped_after is None:
            break
        rounds, waited = rounds + 1, waited + schedule.waited
    assert 0 < rounds < _MOST_ROUNDS
    assert waited, "the two have nothing to do with each other"


def test_what_is_published_without_work_names_no_cache(world: World) -> None:
    """A new cache holds its dataset, so that two of them would each wait for the other to have it alone."""
    engine, statements = world.bench.database.engine, list[str]()

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        _publish_approved(world)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert [each for each in statements if "datasets" in each and "FOR UPDATE" in each]
    assert not [each for each in statements if each.startswith("INSERT INTO dataset_caches")]


def test_the_same_weights_in_a_dataset_that_is_held_are_left_to_the_next_sweep(world: World) -> None:
    database = world.bench.database
    with database.writing() as holder:
        datasets.lock(holder, datasets.by_name(holder, "stale").id)
        with database.writing() as session:
            assert retirement.retire_same_weights(session) == 0
    with database.writing() as session:
        assert retirement.retire_same_weights(session) == 1


class _Schedule:
    """One order of events: the first up to its ``stop_at``-th lock, the second as far as it comes, then both."""

    def __init__(self, world: World, *, stop_at: int, second: Act) -> None:
        self._world, self._left, self._me = world, stop_at, threading.get_ident()
        self._other = threading.Thread(target=self._guarded, args=(second,))
        self._seen = set[str]()
        self.stopped_after: str | None = None
        self.waited, self.deadlocks = False, list[str]()

    def run(self, first: Act) -> None:
        engine = self._world.bench.database.engine
        event.listen(engine, "after_cursor_execute", self._executed)
        try:
            self._guarded(first)
        finally:
            event.remove(engine, "after_cursor_execute", self._executed)
            if self.stopped_after is not None:
                self._other.join(_PATIENCE_SECONDS)

    def _guarded(self, act: Act) -> None:
        try:
            act(self._world)
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.errors.DeadlockDetected):
                self.deadlocks.append(str(error.statement)[:300])
            else:
                raise
        except (ServiceError, LeaseLost):
            pass

    def _is_new(self, statement: str) -> bool:
        """Say whether it locks and is the first of its kind."""
        if not _LOCKS.search(statement) or statement in self._seen:
            return False
        self._seen.add(statement)
        return True

    def _executed(self, _conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() != self._me or self.stopped_after is not None or not self._is_new(statement):
            return
        if self._left > 0:
            self._left -= 1
            return
        self.stopped_after = statement[:300]
        self._other.start()
        until = time.monotonic() + _PATIENCE_SECONDS
        while self._other.is_alive() and time.monotonic() < until:
            with self._world.bench.database.looking_up() as connection, suppress(SQLAlchemyError):
                if connection.scalar(_WAITING):
                    self.waited = True
                    return
            time.sleep(0.002)
