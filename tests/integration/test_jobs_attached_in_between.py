"""On PostgreSQL a job may come to a request while a decision holds its jobs and not yet its dataset.

That job may be claimed at once, and the claim then waits for the dataset: nothing deadlocks (docs/lock-order.md).
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.lifecycle import JobStatus, RequestStatus
from service.store import attaching, cancel, datasets, decisions, jobs, models
from service.store.jobs import Claim
from service.store.tables import DeletionRequest, Job, JobRequest
from service.store.types import now
from tests import factories
from tests.integration.test_residuals import ask
from workers.bench import Bench

_JOBS_HELD, _DATASET_HELD = (
    re.compile(r"FROM jobs\b.*FOR UPDATE", re.S),
    re.compile(r"FROM datasets\b.*FOR UPDATE", re.S),
)
_NEVER = re.compile(r"(?!)")
_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
_PATIENCE_SECONDS = 30.0


@pytest.fixture(scope="module")
def store_url(migrated_postgres_url: str) -> str:
    """SQLite has one writer, so nothing comes in between there."""
    return migrated_postgres_url


@pytest.fixture
def name(bench: Bench, request: pytest.FixtureRequest) -> str:
    """A dataset with two models, of which the second has no version yet; nobody else has work."""
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, found)
    for model in (found, f"{found}-late"):
        factories.model(bench, model, of=found)
    factories.version(bench, found)
    return found


def _deny(session: Session, request_id: str) -> None:
    decisions.deny(session, request_id, reason="no_match", note=None, by="key_test")


def _hold(session: Session, request_id: str) -> None:
    decisions.hold(session, request_id, note="wait", by="key_test")


def _extend(session: Session, request_id: str) -> None:
    decisions.extend(session, request_id, months=1, note="many requests", by="key_test", zone="UTC")


def _cancel(session: Session, request_id: str) -> None:
    cancel.cancel(session, request_id)


def _attach(bench: Bench, model: str) -> None:
    """Have a version of the model appear, which the open request is about too."""
    factories.version(bench, model)
    with bench.database.writing() as session:
        found = models.by_name(session, model)
        datasets.lock(session, found.dataset_id)
        attaching.attach_open_requests(session, found)


@contextmanager
def _once_after(bench: Bench, *steps: tuple[re.Pattern[str], Callable[[], None]]) -> Iterator[None]:
    """Do each step in its turn, once this thread has executed its statement."""
    left, mine = list(steps), threading.get_ident()

    def executed(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not left or threading.get_ident() != mine or not left[0][0].search(statement):
            return
        step = left[0][1]
        left[0] = _NEVER, step  # what the step itself executes begins none
        step()
        del left[0]

    event.listen(bench.database.engine, "after_cursor_execute", executed)
    try:
        yield
    finally:
        event.remove(bench.database.engine, "after_cursor_execute", executed)
    assert not left


def _until_it_waits(bench: Bench, other: Future[Any]) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while not other.done() and time.monotonic() < until:
        with bench.database.looking_up() as connection:
            if connection.scalar(_WAITING):
                return
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("decide", "ends"),
    [
        (_deny, (RequestStatus.DENIED, [JobStatus.CANCELLED] * 2)),
        (_hold, (RequestStatus.ON_HOLD, [JobStatus.QUEUED] * 2)),
        (_extend, (RequestStatus.IN_PROGRESS, [JobStatus.QUEUED, JobStatus.RUNNING])),
        (_cancel, (RequestStatus.IN_PROGRESS, [JobStatus.QUEUED, JobStatus.RUNNING])),
    ],
)
def test_a_job_that_came_meanwhile_and_is_being_claimed_is_waited_for(
    bench: Bench, name: str, decide: Callable[[Session, str], None], ends: tuple[str, list[str]]
) -> None:
    request_id = ask(bench, name, "train-0")
    claims: list[Future[Claim | None]] = []
    with ThreadPoolExecutor(1) as pool:

        def claim() -> None:
            claims.append(pool.submit(jobs.claim_next, bench.database, owner="w", lease_seconds=3600))
            _until_it_waits(bench, claims[0])

        steps = (_JOBS_HELD, lambda: _attach(bench, f"{name}-late")), (_DATASET_HELD, claim)
        with _once_after(bench, *steps):
            if decide is _cancel:
                with pytest.raises(Conflict, match="in_progress"), bench.database.writing() as session:
                    decide(session, request_id)
            else:
                with bench.database.writing() as session:
                    decide(session, request_id)
        claimed = claims[0].result()
    assert claimed is not None
    with bench.database.reading() as session:
        mine = select(Job).join(JobRequest, JobRequest.job_id == Job.id).where(JobRequest.request_id == request_id)
        first, second = session.scalars(mine.order_by(Job.id))
        request = session.get_one(DeletionRequest, request_id)
        assert claimed.job_id == second.id
        assert (request.status, [first.status, second.status]) == ends
        assert first.due_at == second.due_at == request.due_at
