"""What holds after every cell, whatever was hit when."""

import os
import time
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import select

from service.artifacts import IDENTITY
from service.evidence import verify
from service.evidence.log_verification import verify_log
from service.evidence.verify import TrustedKey
from service.lifecycle import VersionState
from service.store import signing_keys
from service.store.fanning_out import PENDING
from service.store.tables import (
    Attempt,
    Certificate,
    DeletionRequest,
    Job,
    JobRequest,
    PreparedFile,
    ReferenceFile,
    Version,
    WebhookDelivery,
    WebhookEvent,
)
from tests.crash.cells import Cell
from tests.crash.stacks import CrashStack
from workers import leftovers
from workers.bench import Bench

MOST_ATTEMPTS = 2
_ONCE = ("request.accepted", "request.completed", "version.activated", "certificate.issued")
_TWO_DAYS = 2 * 86_400


@dataclass(frozen=True, kw_only=True)
class Before:
    """What there was before the cell: requests, versions and events, and the log's checkpoint."""

    requests: int
    versions: int
    events: frozenset[str]
    note: str

    @classmethod
    def of(cls, crash: CrashStack) -> "Before":
        with crash.database.reading() as session:
            return cls(
                requests=len(session.scalars(select(DeletionRequest.id)).all()),
                versions=len(session.scalars(select(Version.id)).all()),
                events=frozenset(session.scalars(select(WebhookEvent.id))),
                note=_checkpoint(crash),
            )


def check(crash: CrashStack, cell: Cell, request_id: str, before: Before) -> Job:
    """Wait for the request's end and its certificate, then check every law. Return the request's one job."""
    job = _completed(crash, request_id)
    crash.until(lambda: _certificates(crash, request_id))
    _one_version(crash, job, before)
    _one_certificate(crash, request_id)
    _attempts(crash, cell, job)
    _events(crash, before)
    _actions(crash, request_id, job)
    _log(crash, before)
    _nothing_left(crash)
    return job


def _completed(crash: CrashStack, request_id: str) -> Job:
    ended = ("completed", "failed", "on_hold", "cancelled", "denied")

    def look() -> DeletionRequest | None:
        with crash.database.reading() as session:
            found = session.get_one(DeletionRequest, request_id)
            return found if found.status in ended else None

    found = crash.until(look)
    assert found.status == "completed", f"the request is {found.status}"
    with crash.database.reading() as session:
        ids = session.scalars(select(JobRequest.job_id).where(JobRequest.request_id == request_id)).all()
        assert len(ids) == 1, f"{len(ids)} jobs for one request of one model"
        job = session.get_one(Job, ids[0])
    assert job.status == "published", f"the job is {job.status}"
    return job


def _one_version(crash: CrashStack, job: Job, before: Before) -> None:
    with crash.database.reading() as session:
        requests = len(session.scalars(select(DeletionRequest.id)).all())
        made = list(session.scalars(select(Version).where(Version.job_id == job.id)))
        every = list(session.scalars(select(Version)))
    assert requests == before.requests + 1, f"{requests - before.requests} requests were stored for one"
    assert [version.id for version in made] == [job.version_id], f"{len(made)} versions came of one job"
    assert len(every) == before.versions + 1, "there are other versions than the one made"
    active = [version.id for version in every if version.state == VersionState.ACTIVE]
    assert active == [job.version_id], f"{len(active)} versions are in circulation"


def _certificates(crash: CrashStack, request_id: str) -> list[str]:
    with crash.database.reading() as session:
        return list(session.scalars(select(Certificate.id).where(Certificate.request_id == request_id)))


def _one_certificate(crash: CrashStack, request_id: str) -> None:
    assert len(_certificates(crash, request_id)) == 1
    answer = crash.stack.client.get(f"/v1/deletion-requests/{request_id}/certificate").raise_for_status()
    with crash.database.reading() as session:
        signer = signing_keys.current(session, crash.stack.settings)
    verify.verify(answer.content, trusted=[TrustedKey(pin=signer.public_key)])


def _attempts(crash: CrashStack, cell: Cell, job: Job) -> None:
    with crash.database.reading() as session:
        outcomes = [str(each) for each in session.scalars(select(Attempt.outcome).where(Attempt.job_id == job.id))]
    assert job.attempts <= MOST_ATTEMPTS, f"{job.attempts} attempts were counted: {outcomes}"
    assert len(outcomes) <= MOST_ATTEMPTS + 1, f"the job was claimed {len(outcomes)} times: {outcomes}"
    assert outcomes.count("published") == 1, f"the attempts ended as {outcomes}"
    if (cell.process, cell.signal) == ("worker", "TERM"):
        assert job.attempts == 1, f"an attempt that was handed back was counted: {outcomes}"


def _events(crash: CrashStack, before: Before) -> None:
    """Every event told once or more, under its one id; and each turn of the request is one event."""

    def all_told() -> bool:
        with crash.database.reading() as session:
            if session.scalar(select(WebhookEvent.id).where(~WebhookEvent.fanned_out).limit(1)) is not None:
                return False
            return session.scalar(select(WebhookDelivery.id).where(WebhookDelivery.state == PENDING)) is None

    crash.until(all_told)
    with crash.database.reading() as session:
        new = {each.id: each.type for each in session.scalars(select(WebhookEvent)) if each.id not in before.events}
    told = {call.headers["webhook-id"] for call in crash.receiver.calls}
    missing = sorted(kind for event_id, kind in new.items() if event_id not in told)
    assert not missing, f"the receiver never heard of {missing}"
    counts = Counter(new.values())
    assert {kind: counts[kind] for kind in _ONCE} == dict.fromkeys(_ONCE, 1), f"events: {dict(counts)}"


def _actions(crash: CrashStack, request_id: str, job: Job) -> None:
    answer = crash.stack.client.get("/v1/audit/entries", params={"request_id": request_id, "limit": 500})
    actions = Counter(entry["action"] for entry in answer.raise_for_status().json()["items"])
    once = ("request.completed", "job.published", "certificate.issued")
    assert {action: actions[action] for action in once} == dict.fromkeys(once, 1), f"{job.id}: {dict(actions)}"


def _checkpoint(crash: CrashStack) -> str:
    return crash.stack.client.get("/v1/audit/checkpoint").raise_for_status().text


def _log(crash: CrashStack, before: Before) -> None:
    """The whole log has the root that is signed now, and its beginning the one signed before the cell."""
    note = _checkpoint(crash)
    export = crash.stack.client.get("/v1/audit/export").raise_for_status().content
    with crash.database.reading() as session:
        keys = signing_keys.note_keys(session, note.partition("\n")[0])
    verify_log(export.splitlines(), checkpoints=[before.note, note], trusted=keys)


def _nothing_left(crash: CrashStack) -> None:
    """No scratch folder after a sweep, and, once it is old enough to go, no file that no row names."""
    scratch = crash.folder / "tmp"
    crash.until(lambda: not list(scratch.glob("job_*")))
    files = [path for path in (crash.folder / "artifacts").rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (time.time() - _TWO_DAYS,) * 2)
    bench = Bench.open(crash.stack.settings)
    try:
        leftovers.remove_orphans(bench)
    finally:
        bench.database.dispose()
    left = {path.name for path in (crash.folder / "artifacts").rglob("*") if path.is_file()} - {IDENTITY}
    assert left == _named(crash), (
        f"{len(left - _named(crash))} files that no row names, {len(_named(crash) - left)} lost"
    )


def _named(crash: CrashStack) -> set[str]:
    gone = (VersionState.PURGED, VersionState.REJECTED)
    with crash.database.reading() as session:
        found = set(session.scalars(select(Version.sha256).where(Version.state.not_in(gone))))
        for other in (Job.candidate_sha256, ReferenceFile.sha256, PreparedFile.sha256):
            found |= {digest for digest in session.scalars(select(other)) if digest is not None}
    return found
