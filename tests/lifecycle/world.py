"""Two models of one dataset, two workers, a sweeper and people who ask and decide, on a store of their own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import Mock

from sqlalchemy import select

from service import clock as due_dates
from service.auth import Principal
from service.deps import Parts
from service.errors import Conflict, Forbidden, InvalidRequest, UnresolvedSamples
from service.lifecycle import JOB_BUSY, JOB_STUCK, JobKind, JobStatus
from service.routes import jobs as job_routes
from service.routes import versions as version_routes
from service.settings import Settings
from service.store import approval, audit, cancel, datasets, decisions, intake, jobs, models, settling
from service.store.intake import Secrets
from service.store.jobs import LeaseLost
from service.store.tables import AuditHead, Job, Sample
from tests import factories
from tests.clock import Clock
from tests.lifecycle.hands import BAD_DATA, PASS, Hand, stopping_places
from tests.lifecycle.laws import Witness, open_requests
from workers import sweeper
from workers.bench import Bench

MODELS = ("a", "b")
SAMPLES = 20
NAMED = 10  # of them can be asked for: each model keeps some of each label
LEASE_SECONDS, MAX_ATTEMPTS = 60.0, 3
_ROUNDS = 60
_WHO = Principal(id="key_test", name="test", scopes=frozenset({"admin"}))
_POLICY = {"gate": {"privacy": [], "bias": []}, "ladder": ["finetune", "retrain"], "reexecution_share": 0.0}
Found = TypeVar("Found")


class World:
    """Everything that can happen, each a method; `check` raises where a law is broken. One to a store."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.clock = clock
        self.bench = Bench.open(settings)
        self.secrets = Secrets(
            suppression=self.bench.suppression_key, wrapping=b"w" * 32, time_zone="UTC", approval_above_share=0.3
        )
        self.parts = Parts(
            settings=settings,
            database=self.bench.database,
            artifacts=self.bench.artifacts,
            bell=Mock(),
            secrets=self.secrets,
        )
        self.hands = [Hand(self.bench, f"worker-{number}") for number in range(2)]
        self._uploads = 0
        self._furnish()

    def _furnish(self) -> None:
        factories.webhook(self.bench)
        factories.dataset(self.bench, "d", train=SAMPLES, held_out=2, classes=2)
        for name, at_once in zip(MODELS, (False, True), strict=True):
            serving = {"stop_serving": "immediately"} if at_once else {}
            factories.model(self.bench, name, of="d", policy={**_POLICY, **serving})
            factories.version(self.bench, name)
        with self.bench.database.reading() as session:
            rows = {str(row.sample_id): row.id for row in session.scalars(select(Sample))}
        self._witness = Witness(suppression_key=self.secrets.suppression, max_attempts=MAX_ATTEMPTS, samples=rows)

    def check(self) -> None:
        with self.bench.database.reading() as session:
            self._witness.check(session)

    # The API: each call is one transaction; None where it refuses.

    def _asked(self, act: Callable[[Any], Found]) -> Found | None:
        try:
            with self.bench.database.writing() as session:
                return act(session)
        except (Conflict, Forbidden, InvalidRequest, UnresolvedSamples):
            return None

    def ask(self, *numbers: int, **changes: Any) -> str | None:
        """Ask for the erasure of these samples; return the request's id."""
        order = factories.order("d", *(f"train-{number}" for number in numbers), **changes)
        accepted = self._asked(lambda session: intake.accept(session, order, self.secrets))
        return None if accepted is None else accepted.request.id

    def cancel(self, request_id: str) -> bool:
        return self._asked(lambda session: cancel.cancel(session, request_id)) is not None

    def deny(self, request_id: str) -> bool:
        given: dict[str, Any] = {"reason": "no_match", "note": None, "by": _WHO.id}
        return self._asked(lambda session: decisions.deny(session, request_id, **given)) is not None

    def hold(self, request_id: str) -> bool:
        return self._asked(lambda session: decisions.hold(session, request_id, note="-", by=_WHO.id)) is not None

    def release(self, request_id: str) -> bool:
        key = self.secrets.suppression
        return (
            self._asked(lambda session: decisions.release(session, request_id, by=_WHO.id, suppression_key=key))
            is not None
        )

    def extend(self, request_id: str) -> bool:
        given: dict[str, Any] = {"months": 1, "note": "-", "by": _WHO.id, "zone": "UTC"}
        return self._asked(lambda session: decisions.extend(session, request_id, **given)) is not None

    def approve(self, request_id: str) -> bool:
        given: dict[str, Any] = {"by": "key_other", "suppression_key": self.secrets.suppression, "four_eyes": True}
        return self._asked(lambda session: approval.approve(session, request_id, **given)) is not None

    def retry(self, job_id: str) -> bool:
        return self._called(lambda: job_routes.retry(job_id, self.parts, _WHO)) is not None

    def approve_job(self, job_id: str) -> bool:
        return self._called(lambda: job_routes.approve(job_id, self.parts, _WHO)) is not None

    def upload(self, model: str) -> bool:
        """Upload weights nobody has seen, declared to be trained on all that is not erased."""
        self._uploads += 1
        path = self.bench.settings.data_dir / f"upload-{self._uploads}"
        path.write_bytes(factories.safetensors(w=[float(self._uploads), 0.5]))
        return self._called(lambda: version_routes._keep(model, path, None, self.parts, _WHO)) is not None

    def train(self, model: str) -> None:
        """Ask for a version trained by the recipe."""
        with self.bench.database.writing() as session:
            row = models.by_name(session, model)
            datasets.lock(session, row.dataset_id)
            jobs.create(session, JobKind.TRAIN, dataset_id=row.dataset_id, model_id=row.id)

    def _called(self, call: Callable[[], Found]) -> Found | None:
        try:
            return call()
        except (Conflict, Forbidden):
            return None

    # What happens by itself.

    def sweep(self, by: int = 0) -> None:
        """Do a round of the sweeper that runs beside a worker."""
        sweeper.sweep(self.hands[by].bench, lambda _: None)

    def look_at_due_dates(self) -> None:
        due_dates.run(self.parts)

    def settle_twice(self) -> None:
        """Settle every open request, and once more, which changes nothing."""
        self._settle()
        size = self._log_size()
        self._settle()
        assert self._log_size() == size, "settling once more moved a request"

    def _settle(self) -> None:
        with self.bench.database.writing() as session:
            for request in list(open_requests(session)):
                settling.settle(session, request, suppression_key=self.secrets.suppression)

    def _log_size(self) -> int:
        with self.bench.database.reading() as session:
            return session.get_one(AuditHead, 1).size

    def states_of(self, job_id: str) -> tuple[str, int, int]:
        """Return a job's status and fence, and how many entries the log has on it."""
        with self.bench.database.reading() as session:
            job = jobs.get(session, job_id)
            return job.status, job.fence, len(audit.find(session, subject=f"job/{job_id}", limit=None))

    # The end.

    def drain(self) -> None:
        """Let everything go well from now on: every request that is open completes."""
        for hand in self.hands:
            hand.crash()
        self.clock.advance(2 * LEASE_SECONDS)
        for _ in range(_ROUNDS):
            self.sweep()
            self.check()
            if not self._step_in() and not self._work():
                break
        with self.bench.database.reading() as session:
            left = [(request.id, request.status, request.error) for request in open_requests(session)]
            assert not left, f"never completed: {left}"
            assert not list(session.scalars(select(Job.id).where(Job.status.in_(JOB_BUSY))))
        self.settle_twice()
        self.check()

    def _step_in(self) -> bool:
        """Have people do all they can; say whether there was something to do."""
        with self.bench.database.reading() as session:
            waiting = [request.id for request in open_requests(session)]
            stuck = list(session.scalars(select(Job.id).where(Job.status.in_(JOB_STUCK))))
        acts = [self.release(each) for each in waiting] + [self.approve(each) for each in waiting]
        return any(acts + [self.approve_job(each) or self.retry(each) for each in stuck])

    def _work(self) -> bool:
        hand = self.hands[0]
        worked = False
        while hand.take():
            hand.finish(PASS)
            worked = True
        if not worked:
            worked = self._is_something_queued()
            self.clock.advance(86_400)
        return worked

    def _is_something_queued(self) -> bool:
        with self.bench.database.reading() as session:
            return session.scalar(select(Job.id).where(Job.status == JobStatus.QUEUED).limit(1)) is not None

    def close(self) -> None:
        for hand in self.hands:
            hand.crash()
        self.bench.database.dispose()


@contextmanager
def world(folder: Path, database_url: str) -> Iterator[World]:
    """Yield a world on an empty migrated store."""
    settings = Settings(
        data_dir=folder, database_url=database_url, lease_seconds=LEASE_SECONDS, max_attempts=MAX_ATTEMPTS
    )
    clock = Clock()
    with clock.installed(), stopping_places():
        found = World(settings, clock)
        try:
            yield found
        finally:
            found.close()


__all__ = ["BAD_DATA", "LEASE_SECONDS", "MODELS", "NAMED", "LeaseLost", "World", "world"]
