"""Reads from the store what a certificate says, and the log entries that prove it. Changes nothing.

When something happened is told as the log has it: rows have the clock of who wrote them, which may have been set back.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as version_of
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.evidence.bundle import KeyRecord, LogProofs
from service.evidence.facts import (
    CertificateFacts,
    DatasetFacts,
    LoggedEntry,
    ModelFacts,
    Recipients,
    RequestFacts,
    Residual,
    SharedReport,
)
from service.evidence.verify import common_digest, digest_of_parts, report_digest, whole
from service.lifecycle import JobStatus
from service.store import (
    audit,
    audit_tree,
    dataset_roots,
    evaluations,
    lost_spans,
    request_outcomes,
    requests,
    residuals,
    retention,
    signing_keys,
    versions,
    withdrawals,
)
from service.store.checkpoints import SignedCheckpoint
from service.store.lost_spans import Span
from service.store.residuals import Found, State
from service.store.tables import (
    AuditEntry,
    Dataset,
    DeletionRequest,
    Evaluation,
    Job,
    Recipient,
    Version,
)
from service.store.tables import Residual as ResidualRow
from service.store.types import new_id, now

_ACCEPTED = "request.accepted"
_OF_JOB = ("job.queued", "job.result_committed", "evaluation.recorded", "job.published")
_DONE = {
    State.PURGED: "Deleted from the artifact store; that it is absent was checked.",
    State.OVERWRITTEN: "The rows of the samples were overwritten with zeros.",
    State.ABSENT: "Looked for, and not there.",
    State.DECLARED_LOST: "Declared lost with the disk it was on, by a person; nobody could look.",
    State.SERVED_AGAIN: "In circulation again: the request no longer concerns it.",
    State.PUBLISHED: "Became the new version, which was made to forget the samples.",
    State.OUT_OF_SCOPE: "The request does not reach it; it holds the samples still.",
    State.NOT_OURS_TO_DELETE: "Not edited by this service; whoever keeps the source must erase there.",
    State.HELD: "Holds the samples still.",
    State.QUARANTINED: "Withheld; not deleted yet.",
    State.RETIRED: "Out of circulation; not deleted yet.",
    State.REJECTED: "Never in circulation; not deleted yet.",
    State.TRIMMED: "Replaced by a file without the samples; the old bytes are not deleted yet.",
    State.REPLACED: "Replaced; the old bytes are not deleted yet.",
    State.DROPPED: "Not used any more; its bytes are not deleted yet.",
    State.SHARED: "Not used any more; equal bytes belong to something else, which keeps them.",
}


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The facts, and the numbers of the log entries that they rest on."""

    facts: CertificateFacts
    entries: list[LoggedEntry]


def gather(
    session: Session, request: DeletionRequest, *, master_key: bytes, roots: dataset_roots.Reader, not_before: datetime
) -> Gathered:
    """Return what the certificate of a completed request says. Raises LookupError where the log lacks an entry.

    ``not_before``: from when on the key that signs is valid.
    """
    undone = lost_spans.spans(session)
    told_of = _told_of(session, request)
    story = _story(told_of, undone)
    models: list[ModelFacts] = []
    entries = {entry.seq: entry for entry in story}
    entries |= {row.seq: _logged(row) for row in lost_spans.explained(session, told_of, undone)}
    for job, name in requests.jobs(session, [request.id])[request.id]:
        if job.status == JobStatus.PUBLISHED and job.version_id is not None:
            model, proven_by = _model(session, job, name, story, request.id, undone)
            models.append(model)
            entries |= {entry.seq: entry for entry in proven_by}
    found = residuals.of_request(session, request.id)
    days = retention.longest(session, request.dataset_id)
    numbers = [each.steps[-1].seq for each in found]
    told = {entry.seq: entry for entry in _numbered(session, [seq for seq in numbers if seq is not None])}
    left = [_residual(session, each, days, told) for each in found]
    entries |= told
    facts = CertificateFacts(
        id=new_id("cert"),
        issued_at=max(now(), not_before, *map(_moment, entries.values())),
        service_version=version_of("unlearning-service"),
        request=_request(session, request, story),
        dataset=_dataset(session, request, roots.around(session, request, master_key=master_key)),
        models=models,
        residuals=left,
        recipients=_recipients(session, request.id),
    )
    return Gathered(facts=facts, entries=[entries[seq] for seq in sorted(entries)])


def proofs(session: Session, entries: Sequence[LoggedEntry], checkpoint: SignedCheckpoint) -> LogProofs:
    """Return the entries with their inclusion proofs under the checkpoint."""
    size = checkpoint.size
    return LogProofs(
        checkpoint=checkpoint.note,
        entries=[(entry, audit_tree.inclusion(session, entry.seq, size)) for entry in entries],
    )


def keys(session: Session, name: str) -> list[KeyRecord]:
    """Return every public key of the service with its validity."""
    return [
        KeyRecord(
            name=name,
            public_key=row.public_key,
            not_before=row.not_before,
            not_after=row.not_after,
            revoked_at=row.revoked_at,
        )
        for row in signing_keys.every(session)
    ]


def _told_of(session: Session, request: DeletionRequest) -> list[AuditEntry]:
    # The entries of its jobs, of which many models make many, are linked to it too.
    about = f"deletion-request/{request.id}"
    found = audit.find(session, subject=about, links={"request": request.id}, limit=None)
    return [row for row in found if row.action.startswith("request.")]


def _story(told_of: Sequence[AuditEntry], undone: Sequence[Span]) -> list[LoggedEntry]:
    """Return the entries about the request itself, from its receipt to the completion that this store knows."""
    story = [_logged(row) for row in lost_spans.outside(told_of, undone)]
    # Older versions wrote that a request was accepted again when its last hold was lifted.
    first = next((entry for entry in story if entry.action == _ACCEPTED), None)
    return [entry for entry in story if entry.action != _ACCEPTED or entry is first]


def _logged(row: AuditEntry) -> LoggedEntry:
    return LoggedEntry(
        seq=row.seq,
        time=row.time,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        payload=json.loads(row.payload, parse_int=whole),
    )


def _moment(entry: LoggedEntry) -> datetime:
    return datetime.fromisoformat(entry.time)


def _the(entries: Iterable[LoggedEntry], action: str, subject: str) -> LoggedEntry:
    found = [entry for entry in entries if (entry.action, entry.subject) == (action, subject)]
    if len(found) != 1:
        raise LookupError(f"the log has {len(found)} entries {action} of {subject}")
    return found[0]


def _request(session: Session, request: DeletionRequest, story: Sequence[LoggedEntry]) -> RequestFacts:
    if request.completed_at is None:
        raise LookupError(f"{request.id} is not completed")
    completed = _the(story, "request.completed", f"deletion-request/{request.id}")
    begun = next((entry for entry in story if entry.action == "request.in_progress"), None)
    started = _moment(begun) if begun else request.started_at
    return RequestFacts(
        id=request.id,
        purpose=request.purpose,
        scope=request.scope,
        models=request.models,
        method=request.method,
        options=request.method_options,
        received_at=request.received_at,
        due_at=request.due_at,
        started_at=started,
        completed_at=_moment(completed),
        num_samples=request.num_samples,
        commitment_root=request.commitment_root,
        not_found=request.not_found,
        already_erased=request.already_erased,
        outcomes=request_outcomes.of_request(session, request),
        completed=completed,
    )


def _dataset(session: Session, request: DeletionRequest, roots: dataset_roots.Roots) -> DatasetFacts:
    dataset = session.get_one(Dataset, request.dataset_id)
    return DatasetFacts(
        name=dataset.name,
        digest=dataset.digest,
        root_before=roots.before,
        root_after=roots.after,
        samples_before=roots.samples_before,
        samples_after=roots.samples_after,
    )


def _model(
    session: Session, job: Job, name: str, story: Sequence[LoggedEntry], request_id: str, undone: Sequence[Span]
) -> tuple[ModelFacts, list[LoggedEntry]]:
    if job.version_id is None or job.parent_id is None:
        raise LookupError(f"job {job.id} is older than certificates: it names no version, or none that it began from")
    version, parent = session.get_one(Version, job.version_id), session.get_one(Version, job.parent_id)
    evaluation = session.get_one(Evaluation, version.evaluation_id)
    shared = _shared(session, evaluation, request_id)
    found = audit.find(session, actions=_OF_JOB, links={"job": job.id}, limit=None)
    of_job = [_logged(row) for row in lost_spans.outside(found, undone)]
    published = _the(of_job, "job.published", f"job/{job.id}")
    measured = _the(of_job, "evaluation.recorded", f"evaluation/{evaluation.id}")
    frozen = _frozen(job, name, story) or _the(of_job, "job.queued", f"job/{job.id}")
    # A job's first commitment binds it, and outlives the loss of what it came to.
    committed = [_logged(row) for row in found if row.seq == _committed(evaluation.report)]
    facts = ModelFacts(
        model=name,
        job=job.id,
        version=version.number,
        sha256=version.sha256,
        published_entry=published.seq,
        parent_version=parent.number,
        parent_sha256=parent.sha256,
        policy_sha256=str(job.policy_digest),
        criteria_entry=frozen.seq,
        approved_by=job.approved_by,
        evaluation=evaluation.id,
        evaluation_entry=measured.seq,
        report_sha256=_digest_of(session, evaluation, shared),
        report=evaluation.report,
        shared=shared,
    )
    return facts, [published, measured, frozen, *committed]


def _shared(session: Session, evaluation: Evaluation, request_id: str) -> SharedReport | None:
    """Return what proves the request's own figure, without reading any other's."""
    figure = evaluations.figure_of(session, evaluation, request_id)
    if figure is None:
        return None
    return SharedReport(
        common_sha256=common_digest(evaluation.report),
        requests=evaluation.report["parts"]["requests"],
        root=evaluation.report["parts"]["root"],
        own={"figure": dict(figure.document), "index": figure.index, "proof": figure.proof},
    )


def _digest_of(session: Session, evaluation: Evaluation, shared: SharedReport | None) -> str:
    if shared is None:
        return report_digest(evaluations.whole(session, evaluation))
    return digest_of_parts(shared.common_sha256, requests=shared.requests, root=shared.root)


def _committed(report: Mapping[str, Any]) -> int | None:
    """Return the number of the entry that committed the job to its first result, if it was drawn from."""
    return report["reexecution"]["committed"]["seq"] if report.get("reexecution") else None


def _frozen(job: Job, name: str, story: Sequence[LoggedEntry]) -> LoggedEntry | None:
    """Return the acceptance, if it froze the job's criteria: not so for a model that came after it."""
    accepted = next((entry for entry in story if entry.action == _ACCEPTED), None)
    policies: Any = accepted.payload.get("policies", {}) if accepted else {}
    return accepted if policies.get(name) == job.policy_digest else None


def _residual(session: Session, found: Found, days: int, told: Mapping[int, LoggedEntry]) -> Residual:
    last = found.steps[-1]
    done = _DONE.get(State(found.state), found.state)
    if found.state == State.HELD and found.kind != residuals.VERSION and days:
        done = f"Holds the samples still: audits of later versions may read them for {days} days after completion."
    if found.state == State.RETIRED and found.sha256 and versions.digest_in_use(session, found.sha256):
        done = "Out of circulation; equal bytes belong to a version that the request does not reach, which keeps them."
    return Residual(
        kind=found.kind,
        name=found.artifact,
        sha256=found.sha256,
        state=found.state,
        done=done,
        at=last.at if last.seq is None else _moment(told[last.seq]),
        entry=last.seq,
    )


def _numbered(session: Session, numbers: Sequence[int]) -> list[LoggedEntry]:
    if not numbers:
        return []
    return [_logged(row) for row in session.scalars(select(AuditEntry).where(AuditEntry.seq.in_(sorted(set(numbers)))))]


def _recipients(session: Session, request_id: str) -> Recipients:
    held = select(ResidualRow.version_id).where(
        ResidualRow.request_id == request_id, ResidualRow.kind == residuals.VERSION
    )
    counted = select(
        func.coalesce(func.sum(Recipient.downloads), 0), func.count(Recipient.principal_id.distinct())
    ).where(Recipient.version_id.in_(held))
    downloads, people = session.execute(counted).one()
    told = withdrawals.counts_of_request(session, request_id)
    return Recipients(
        downloads=int(downloads), recipients=int(people), notices=told.told, acknowledged=told.acknowledged
    )
