"""The error tree, named by what the caller can do. Knows neither HTTP nor SQL.

ServiceError
├── InvalidRequest          fix the request; ``faults`` lists everything that is wrong with it
│   └── UnresolvedSamples   some sample IDs cannot be erased
├── NotFound                ask for something that exists
├── Conflict                the thing is in a state that does not allow this
│   └── AlreadyExists       choose another name
├── Gone                    it was withdrawn and will not come back
├── Quarantined             withheld while a deletion request is open
├── Unauthenticated         send a valid API key
├── Forbidden               use a key with the scope
├── TooManyRequests         come back later
├── TooLarge                send less
├── PreconditionFailed      the content is not what the client states
├── JobFailed               the work itself failed; an operator decides
├── Outage                  the database or the storage is away; try again later
├── StorageFull             the storage has no room; the operator must make some
└── Unavailable             ask the operator, who must act before this can work

Beside it WrongStore, which is an OSError like all that a store refuses with.
"""

from dataclasses import dataclass
from typing import Any

MAX_FAULTS = 100


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a request: where (JSON pointer), what (stable code), and the offending value."""

    pointer: str
    code: str
    value: Any = None
    detail: str | None = None


class ServiceError(Exception):
    """Something the caller can understand and act on."""

    code = "internal_error"
    title = "The service could not do this"

    def __init__(
        self, detail: str, *, code: str | None = None, title: str | None = None, faults: list[Fault] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.title = title or type(self).title
        self.faults = (faults or [])[:MAX_FAULTS]
        self.extra: dict[str, Any] = {}
        if faults and len(faults) > MAX_FAULTS:
            self.extra["errors_total"] = len(faults)


class InvalidRequest(ServiceError):
    """The request does not say something this service can do."""

    code = "invalid_request"
    title = "The request is not valid"


class MalformedBody(InvalidRequest):
    """The body cannot be read at all."""

    code = "malformed_json"
    title = "The body is not JSON"


class UnresolvedSamples(InvalidRequest):
    """Some sample IDs cannot be erased."""

    code = "unresolved_sample_ids"
    title = "Some sample IDs could not be resolved"


class NotFound(ServiceError):
    """There is no such thing."""

    code = "not_found"
    title = "Not found"


class Conflict(ServiceError):
    """The thing is in a state that does not allow this."""

    code = "conflict"
    title = "The current state does not allow this"


class AlreadyExists(Conflict):
    """The name is taken."""

    code = "already_exists"
    title = "The name is taken"


class Gone(ServiceError):
    """The weights were withdrawn."""

    code = "version_retired"
    title = "This version was retired"


class Quarantined(ServiceError):
    """The weights are withheld while a deletion request is open."""

    code = "version_quarantined"
    title = "This version is quarantined"


class Unauthenticated(ServiceError):
    """No valid API key came with the request."""

    code = "unauthenticated"
    title = "A valid API key is needed"


class Forbidden(ServiceError):
    """The key has not the scope."""

    code = "forbidden"
    title = "The key lacks the scope"


class TooManyRequests(ServiceError):
    """The caller has had what it may have for now. ``retry_after``: seconds until there is more, where known."""

    code = "quota_exceeded"
    title = "The quota is used up"

    def __init__(self, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class TooLarge(ServiceError):
    """The body is over the limit."""

    code = "body_too_large"
    title = "The body is too large"


class PreconditionFailed(ServiceError):
    """The content is not what the client states it to be."""

    code = "digest_mismatch"
    title = "The content does not match its digest"


class JobFailed(ServiceError):
    """The work itself failed."""

    code = "job_failed"
    title = "The job failed"


class Outage(ServiceError):
    """Something the service stands on does not answer. ``retry_after``: seconds after which it may."""

    code = "database_unavailable"
    title = "The service is not available now"

    def __init__(self, detail: str, *, code: str | None = None, retry_after: int = 5) -> None:
        super().__init__(detail, code=code)
        self.retry_after = retry_after


class StorageFull(ServiceError):
    """There is no room to store anything."""

    code = "storage_full"
    title = "The storage is full"


class Unavailable(ServiceError):
    """The service cannot do this until its operator acts."""

    code = "unavailable"
    title = "The operator must act first"


class WrongStore(OSError):
    """The artifact store is not the one where this database's bytes lie: what it lacks proves nothing."""
