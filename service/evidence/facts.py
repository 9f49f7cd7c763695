"""What a certificate is made from: facts read from the store, in forms that statements can carry as they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LoggedEntry:
    """An audit entry as it was hashed; its number is its place in the log's tree."""

    seq: int
    time: str
    actor: str
    action: str
    subject: str
    payload: Mapping[str, Any]

    def document(self) -> Json:
        """Return the JSON object whose canonical bytes are the leaf."""
        return {
            "seq": self.seq,
            "time": self.time,
            "actor": self.actor,
            "action": self.action,
            "subject": self.subject,
            "payload": dict(self.payload),
        }


@dataclass(frozen=True, kw_only=True)
class RequestFacts:
    """A completed deletion request. ``models``: those it was narrowed to, None for all."""

    id: str
    purpose: str
    scope: str
    models: list[str] | None
    method: str
    options: Mapping[str, Any]
    received_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    completed_at: datetime
    num_samples: int
    commitment_root: str
    not_found: int
    already_erased: int
    outcomes: Mapping[str, int]
    completed: LoggedEntry


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """A dataset around a request. The roots are keyed: they tell nothing of a sample to whoever lacks the key."""

    name: str
    digest: str | None
    root_before: str
    root_after: str
    samples_before: int
    samples_after: int


@dataclass(frozen=True, kw_only=True)
class SharedReport:
    """Of a report that several requests share, what proves the figure of one. ``own``: figure, index and proof."""

    common_sha256: str
    requests: int
    root: str
    own: Json


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model that forgot. ``…_entry`` is the number of the log entry that says so.

    ``report``: without the figures of single requests, where these are `shared`.
    """

    model: str
    job: str
    version: int
    sha256: str
    published_entry: int
    parent_version: int
    parent_sha256: str
    policy_sha256: str
    criteria_entry: int
    approved_by: str | None
    evaluation: str
    evaluation_entry: int
    report_sha256: str
    report: Mapping[str, Any]
    shared: SharedReport | None = None


@dataclass(frozen=True, kw_only=True)
class Residual:
    """An artefact that held the data, or still does, and what was done about it."""

    kind: str
    name: str
    sha256: str | None
    state: str
    done: str
    at: datetime | None
    entry: int | None


@dataclass(frozen=True, kw_only=True)
class Recipients:
    """Who had fetched a version that held the data, and how many were told of its withdrawal and answered."""

    downloads: int
    recipients: int
    notices: int
    acknowledged: int


@dataclass(frozen=True, kw_only=True)
class CertificateFacts:
    """Everything one certificate says, but for its evidence's digests."""

    id: str
    issued_at: datetime
    service_version: str
    request: RequestFacts
    dataset: DatasetFacts
    models: list[ModelFacts]
    residuals: list[Residual]
    recipients: Recipients


def why_nothing_was_measured(facts: CertificateFacts) -> str | None:
    """Return, for a request that no new version came of, why that is so; None for any other."""
    if facts.models:
        return None
    gone = ("erased", "erased_from_named_models", "already_erased")
    if any(facts.request.outcomes.get(outcome) for outcome in gone):
        because = "the versions that knew the samples had given way by the work of other requests, which tell of it"
    else:
        # Versions that went before may have been, and models that a narrowed request does not name.
        of = " of the models it names" if facts.request.scope == "partial" else ""
        because = f"no version in circulation{of} was trained on the samples"
    return f"Nothing was unlearned or measured for this request: by the records {because}."


def written(time: datetime | None) -> str | None:
    """Return a moment as statements and the log write it: UTC, microseconds, Z."""
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
