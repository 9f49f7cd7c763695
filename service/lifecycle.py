"""States of deletion requests, jobs and versions, and the moves allowed between them, as tables. Pure."""

from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from service.errors import Conflict


class RequestStatus(StrEnum):
    RECEIVED = "received"
    ACCEPTED = "accepted"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    DENIED = "denied"
    CANCELLED = "cancelled"
    ON_HOLD = "on_hold"
    FAILED = "failed"


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    EVALUATING = "evaluating"
    PUBLISHED = "published"
    COMPLETED = "completed"
    HELD = "held"
    POISONED = "poisoned"
    FAILED = "failed"
    CANCELLED = "cancelled"


class VersionState(StrEnum):
    VALIDATING = "validating"
    ACTIVE = "active"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"
    RETIRED = "retired"
    PURGED = "purged"


class SampleState(StrEnum):
    """``pending`` while an accepted request names the sample; ``erased`` when no active version knows it.

    ``vanished``: the source has it no more, though nobody asked for its erasure; versions may know it.
    """

    LIVE = "live"
    PENDING = "pending"
    ERASED = "erased"
    VANISHED = "vanished"


class JobKind(StrEnum):
    INDEX = "index"
    REINDEX = "reindex"
    TRAIN = "train"
    VALIDATE = "validate"
    ERASE = "erase"
    PREPARE = "prepare"
    TRIM = "trim"
    PREPARE_VERSION = "prepare_version"


S = TypeVar("S", bound=StrEnum)

REQUEST_MOVES = MappingProxyType(
    {
        RequestStatus.RECEIVED: {RequestStatus.ACCEPTED, RequestStatus.DENIED},
        RequestStatus.ACCEPTED: {
            RequestStatus.IN_PROGRESS,
            RequestStatus.COMPLETED,  # nothing was trained on the samples
            RequestStatus.CANCELLED,
            RequestStatus.DENIED,
            RequestStatus.ON_HOLD,
            RequestStatus.FAILED,
        },
        RequestStatus.IN_PROGRESS: {
            RequestStatus.COMPLETED,
            RequestStatus.DENIED,  # as long as nothing is published
            RequestStatus.ON_HOLD,
            RequestStatus.FAILED,
        },
        RequestStatus.ON_HOLD: {
            RequestStatus.ACCEPTED,
            RequestStatus.IN_PROGRESS,
            RequestStatus.COMPLETED,  # another request's job did what this one waited for
            RequestStatus.CANCELLED,
            RequestStatus.DENIED,
            RequestStatus.FAILED,
        },
        RequestStatus.FAILED: {
            RequestStatus.IN_PROGRESS,
            RequestStatus.COMPLETED,
            RequestStatus.DENIED,
            RequestStatus.ON_HOLD,
        },
        RequestStatus.COMPLETED: set(),
        RequestStatus.DENIED: set(),
        RequestStatus.CANCELLED: set(),
    }
)
_ENDS = {JobStatus.HELD, JobStatus.POISONED, JobStatus.FAILED}
JOB_MOVES = MappingProxyType(
    {
        JobStatus.QUEUED: {JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.POISONED},
        JobStatus.RUNNING: {
            JobStatus.QUEUED,
            JobStatus.EVALUATING,
            JobStatus.PUBLISHED,
            JobStatus.COMPLETED,
            *_ENDS,
        },
        JobStatus.EVALUATING: {JobStatus.QUEUED, JobStatus.PUBLISHED, *_ENDS},
        JobStatus.HELD: {JobStatus.QUEUED, JobStatus.PUBLISHED, JobStatus.CANCELLED},
        JobStatus.POISONED: {JobStatus.QUEUED, JobStatus.CANCELLED},
        JobStatus.FAILED: {JobStatus.QUEUED, JobStatus.CANCELLED},
        JobStatus.PUBLISHED: set(),
        JobStatus.COMPLETED: set(),
        JobStatus.CANCELLED: set(),
    }
)
VERSION_MOVES = MappingProxyType(
    {
        VersionState.VALIDATING: {VersionState.ACTIVE, VersionState.REJECTED},
        VersionState.ACTIVE: {VersionState.QUARANTINED, VersionState.RETIRED},
        VersionState.QUARANTINED: {VersionState.ACTIVE, VersionState.RETIRED},
        VersionState.RETIRED: {VersionState.PURGED},
        VersionState.REJECTED: {VersionState.PURGED},
        VersionState.PURGED: set(),
    }
)

JOB_BUSY = frozenset({JobStatus.RUNNING, JobStatus.EVALUATING})
JOB_DONE = frozenset({JobStatus.PUBLISHED, JobStatus.COMPLETED})
JOB_OVER = JOB_DONE | frozenset({JobStatus.CANCELLED})
JOB_STUCK = frozenset(_ENDS)
REQUEST_OPEN = frozenset(
    {
        RequestStatus.RECEIVED,
        RequestStatus.ACCEPTED,
        RequestStatus.IN_PROGRESS,
        RequestStatus.ON_HOLD,
        RequestStatus.FAILED,
    }
)
REQUEST_ENDED = frozenset(RequestStatus) - REQUEST_OPEN
DOWNLOADABLE = frozenset({VersionState.ACTIVE})


def check_request_move(old: str, new: RequestStatus) -> None:
    """Raise Conflict unless a deletion request may go from ``old`` to ``new``."""
    _check("deletion request", REQUEST_MOVES[RequestStatus(old)], RequestStatus(old), new)


def check_job_move(old: str, new: JobStatus) -> None:
    """Raise Conflict unless a job may go from ``old`` to ``new``."""
    _check("job", JOB_MOVES[JobStatus(old)], JobStatus(old), new)


def check_version_move(old: str, new: VersionState) -> None:
    """Raise Conflict unless a version may go from ``old`` to ``new``."""
    _check("version", VERSION_MOVES[VersionState(old)], VersionState(old), new)


def _check(what: str, allowed: set[S], old: S, new: S) -> None:
    if new not in allowed:
        raise Conflict(
            f"A {what} that is {old} cannot become {new}; it may become: {', '.join(sorted(allowed)) or 'nothing'}.",
            code=f"{what.replace(' ', '_')}_is_{old}",
        )
