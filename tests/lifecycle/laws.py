"""What holds after every transaction of the world, read from the rows and from the log of how they came about."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.lifecycle import (
    JOB_BUSY,
    JOB_MOVES,
    JOB_OVER,
    JOB_STUCK,
    REQUEST_MOVES,
    VERSION_MOVES,
    JobKind,
    JobStatus,
    RequestStatus,
    SampleState,
    VersionState,
)
from service.store import requests, samples, versions
from service.store.audit_state import REQUEST_STATES, VERSION_STATES
from service.store.tables import (
    Attempt,
    AuditEntry,
    AuditHead,
    DeletionRequest,
    Job,
    Model,
    Sample,
    Version,
    WebhookEvent,
)

_REQUEST_MOVES = {**REQUEST_STATES, "request.resumed": str(RequestStatus.ACCEPTED)}
_JOB_MOVES = {
    "job.claimed": JobStatus.RUNNING,
    "job.evaluating": JobStatus.EVALUATING,
    **dict.fromkeys(
        (
            "job.queued", "job.requeued", "job.handed_back", "job.attempt_discarded", "job.escalated", "job.retried",
            "job.approved",
        ),
        JobStatus.QUEUED,
    ),
    **{f"job.{status}": status for status in JobStatus if status not in (JobStatus.QUEUED, JobStatus.RUNNING)},
}  # fmt: skip
_STATES: Mapping[str, str] = {**_REQUEST_MOVES, **VERSION_STATES, **{key: str(to) for key, to in _JOB_MOVES.items()}}
_TABLES: Mapping[str, Mapping[str, set[str]]] = {
    "deletion-request": {str(old): {str(new) for new in to} for old, to in REQUEST_MOVES.items()},
    "job": {str(old): {str(new) for new in to} for old, to in JOB_MOVES.items()},
    "model": {str(old): {str(new) for new in to} for old, to in VERSION_MOVES.items()},
}
_FIRST = {"deletion-request": RequestStatus.RECEIVED, "job": JobStatus.QUEUED, "model": VersionState.VALIDATING}


@dataclass(kw_only=True)
class Witness:
    """Reads the log as it grows, and holds the rows to it. ``announced`` counts the moves that webhooks hear of."""

    suppression_key: bytes
    max_attempts: int
    samples: Mapping[str, int]
    read: int = 0
    states: dict[str, str] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)
    announced: Counter[str] = field(default_factory=Counter)

    def check(self, session: Session) -> None:
        """Raise AssertionError for the first law that does not hold."""
        self._follow_the_log(session)
        _events_are_announced_once(session, self.announced)
        found = list(session.scalars(select(Job)))
        self._jobs_are_as_logged(session, found)
        self._requests_are_as_logged(session)
        self._versions_are_as_logged(session)
        _nothing_broke(session)

    def _follow_the_log(self, session: Session) -> None:
        for entry in session.scalars(select(AuditEntry).where(AuditEntry.seq >= self.read).order_by(AuditEntry.seq)):
            assert entry.seq == self.read, f"the log has a gap before {entry.seq}"
            self.read += 1
            if (to := _STATES.get(entry.action)) is not None:
                self._move(entry, to)
        assert session.get_one(AuditHead, 1).size == self.read

    def _move(self, entry: AuditEntry, to: str) -> None:
        kind = entry.subject.split("/")[0]
        before = self.states.get(entry.subject)
        if before is None:
            assert to == _FIRST[kind], f"{entry.subject} began as {to}"
        else:
            assert to in _TABLES[kind][before], f"{entry.subject} went from {before} to {to} by {entry.action}"
        self.states[entry.subject] = to
        told = f"{entry.action.split('.')[0]}.{to}"
        if (kind == "deletion-request" and to != RequestStatus.RECEIVED) or (kind == "job" and to in JOB_STUCK):
            self.announced[f"{told} {entry.subject.split('/')[1]}"] += 1

    def _jobs_are_as_logged(self, session: Session, found: list[Job]) -> None:
        made = Counter(
            session.scalars(select(Version.job_id).where(Version.origin != "uploaded", Version.job_id.is_not(None)))
        )
        busy = Counter(job.model_id for job in found if job.status in JOB_BUSY)
        assert not busy or max(busy.values()) == 1, "a model has two busy jobs"
        for job in found:
            assert self.states[f"job/{job.id}"] == job.status, f"{job.id} moved without an entry"
            assert job.fence >= self.fences.get(job.id, 0), "a fence went back"
            self.fences[job.id] = job.fence
            assert 0 <= job.attempts <= self.max_attempts
            assert (job.owner is not None) == (job.lease_until is not None) == (job.status in JOB_BUSY), job.status
            is_maker = job.kind in (JobKind.ERASE, JobKind.TRAIN)
            assert made[job.id] == (is_maker and job.status == JobStatus.PUBLISHED), "one version for each publication"

    def _requests_are_as_logged(self, session: Session) -> None:
        every = list(session.scalars(select(DeletionRequest)))
        theirs = requests.jobs(session, [request.id for request in every])
        keys = requests.sample_keys(session, [request.id for request in every])
        for request in every:
            assert self.states[f"deletion-request/{request.id}"] == request.status, "a request moved without an entry"
            _something_moves_it(request, [job for job, _ in theirs[request.id]])
        _their_samples_wait(session, every, keys)
        done = [request for request in every if request.status == RequestStatus.COMPLETED and _erases(request)]
        self._what_is_erased_is_gone(session, {key for request in done for key in keys[request.id]})

    def _what_is_erased_is_gone(self, session: Session, keys: set[int]) -> None:
        states = set(session.scalars(select(Sample.state).where(Sample.id.in_(keys))))
        assert states <= {SampleState.ERASED}
        for version in session.scalars(select(Version).where(Version.state.in_(_SERVED))):
            assert not versions.trained_on(session, version, sorted(keys)), f"{version.id} knows what was erased"
        ids = [name for name, key in self.samples.items() if key in keys]
        dataset_id = session.scalar(select(Model.dataset_id).limit(1))
        assert set(samples.suppressed(session, self.suppression_key, str(dataset_id), ids)) == set(ids)
        assert not samples.resolve(session, str(dataset_id), ids)

    def _versions_are_as_logged(self, session: Session) -> None:
        for version, name in session.execute(select(Version, Model.name).join(Model, Model.id == Version.model_id)):
            subject = f"model/{name}/version/{version.number}"
            assert self.states[subject] == version.state, f"{subject} moved without an entry"


_SERVED = (VersionState.ACTIVE, VersionState.QUARANTINED)


def _erases(request: DeletionRequest) -> bool:
    return request.purpose == "privacy" and request.scope == "full"


def _something_moves_it(request: DeletionRequest, found: list[Job]) -> None:
    """Say that an open request has a job under way, or a person to wait for: that it is not lost."""
    open_jobs = [job for job in found if job.status not in JOB_OVER]
    newest = {job.model_id: job for job in found}.values()
    stuck = [job for job in newest if job.status in JOB_STUCK]
    match request.status:
        case RequestStatus.ACCEPTED | RequestStatus.IN_PROGRESS:
            at_work = [job for job in open_jobs if job.status not in JOB_STUCK and not job.on_hold]
            assert at_work, f"nothing is under way for {request.id}, which is {request.status}"
        case RequestStatus.ON_HOLD:
            assert request.error or stuck, "nobody knows what the request waits for"
        case RequestStatus.FAILED:
            assert stuck, "nobody knows what failed"
        case RequestStatus.RECEIVED:
            raise AssertionError("a request is accepted with its receipt")
        case RequestStatus.COMPLETED:
            assert not open_jobs, "a job goes on for a request that is completed"
        case _:
            assert not found or not open_jobs, "a job goes on for a request that was called off"


def _their_samples_wait(session: Session, found: Iterable[DeletionRequest], keys: Mapping[str, list[int]]) -> None:
    wanted = {key for request in found if request.status in requests.OPEN for key in keys[request.id]}
    states = set(session.scalars(select(Sample.state).where(Sample.id.in_(wanted)).distinct()))
    assert states <= {SampleState.PENDING, SampleState.ERASED}, f"samples of open requests are {states}"
    pending = set(session.scalars(select(Sample.id).where(Sample.state == SampleState.PENDING)))
    assert pending <= wanted, "a sample is withheld from training though no open request names it"


def _events_are_announced_once(session: Session, announced: Counter[str]) -> None:
    rows = session.execute(select(WebhookEvent.type, WebhookEvent.data)).all()
    found = Counter(f"{kind} {data.get('job') or data.get('request')}" for kind, data in rows if _is_a_move(kind))
    assert found == announced


def _is_a_move(kind: str) -> bool:
    subject, _, to = kind.partition(".")
    return (subject == "request" and to in set(RequestStatus)) or (subject == "job" and to in set(JobStatus))


def _nothing_broke(session: Session) -> None:
    """Say that no attempt ended by an error nobody foresaw, which the worker would only note and try again."""
    for attempt in session.scalars(select(Attempt).where(Attempt.outcome == "lost")):
        assert "internal error" not in json.dumps(attempt.error), attempt.error
    assert session.scalar(select(func.count()).where(Job.kind == JobKind.INDEX)) == 0


def open_requests(session: Session) -> Iterator[DeletionRequest]:
    """Return the requests that have not ended."""
    yield from session.scalars(select(DeletionRequest).where(DeletionRequest.status.in_(requests.OPEN)))
