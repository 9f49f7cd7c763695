"""The events that webhooks tell of: each type with what its data holds, and the scope that a receiver's key needs."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_OR_NULL = {"type": ["string", "null"]}
_TEXTS: Schema = {"type": "array", "items": _TEXT}


@dataclass(frozen=True, kw_only=True)
class EventType:
    """``data``: JSON Schemas of the fields that are always there. ``addressed``: ``recipient`` names a key."""

    name: str
    summary: str
    scope: str
    data: MappingProxyType[str, Schema]
    addressed: bool = False

    @property
    def schema(self) -> Schema:
        """Return the JSON Schema (2020-12) of a whole payload."""
        fields = dict(self.data)
        data = {"type": "object", "required": sorted(fields), "properties": fields}
        properties = {"type": {"const": self.name}, "timestamp": _MOMENT, "data": data}
        return {"type": "object", "required": sorted(properties), "properties": properties}


_REQUESTS, _MODELS = "requests:read", "models:read"
_DEADLINE: dict[str, Schema] = {"request": _TEXT, "dataset": _TEXT, "status": _TEXT, "due_at": _OR_NULL}
_REQUEST: dict[str, Schema] = {
    **dict.fromkeys(("request", "dataset", "status", "purpose"), _TEXT),
    "due_at": _OR_NULL,
}
_JOB: dict[str, Schema] = {
    "job": _TEXT,
    "kind": _TEXT,
    "status": _TEXT,
    "model": _OR_NULL,
    "dataset": _OR_NULL,
    "requests": _TEXTS,
}
_VERSION: dict[str, Schema] = {"model": _TEXT, "version": _WHOLE, "state": _TEXT, "sha256": _TEXT}


def _event(name: str, summary: str, data: dict[str, Schema], *, scope: str, addressed: bool = False) -> EventType:
    return EventType(name=name, summary=summary, scope=scope, data=MappingProxyType(data), addressed=addressed)


_ALL = (
    _event("request.accepted", "A deletion request was accepted.", _REQUEST, scope=_REQUESTS),
    _event("request.in_progress", "Work on a deletion request has started.", _REQUEST, scope=_REQUESTS),
    _event(
        "request.completed",
        "A deletion request is completed; `outcomes` counts its samples.",
        {**_REQUEST, "outcomes": {"type": "object", "additionalProperties": _WHOLE}},
        scope=_REQUESTS,
    ),
    _event("request.denied", "A deletion request was denied.", _REQUEST, scope=_REQUESTS),
    _event("request.cancelled", "A deletion request was cancelled.", _REQUEST, scope=_REQUESTS),
    _event("request.on_hold", "A deletion request waits for a person.", _REQUEST, scope=_REQUESTS),
    _event("request.failed", "A deletion request needs an operator.", _REQUEST, scope=_REQUESTS),
    _event("request.deadline_50", "Half of the time to the due date is over.", _DEADLINE, scope=_REQUESTS),
    _event("request.deadline_80", "80 % of the time is over.", _DEADLINE, scope=_REQUESTS),
    _event("request.deadline_100", "The time is over.", _DEADLINE, scope=_REQUESTS),
    _event("request.overdue", "An open request is past its due date.", _DEADLINE, scope=_REQUESTS),
    _event("job.held", "A job waits for a person: `approve` or `retry` it.", _JOB, scope=_REQUESTS),
    _event("job.poisoned", "A job used up its attempts without a result.", _JOB, scope=_REQUESTS),
    _event("job.failed", "A job failed.", _JOB, scope=_REQUESTS),
    _event("version.activated", "A model version may be downloaded.", _VERSION, scope=_MODELS),
    _event("version.quarantined", "A model version is withheld for a while.", _VERSION, scope=_MODELS),
    _event("version.retired", "A model version left circulation for good.", _VERSION, scope=_MODELS),
    _event("version.purged", "The bytes of a model version are deleted.", _VERSION, scope=_MODELS),
    _event(
        "version.withdrawn",
        "A version that the recipient's key has downloaded is withdrawn.",
        {**_VERSION, "recipient": _TEXT, "withdrawal": _TEXT, "acknowledge": _TEXT},
        scope="weights:read",
        addressed=True,
    ),
    _event(
        "certificate.issued",
        "The certificate of a request can be fetched.",
        dict.fromkeys(("request", "certificate", "sha256"), _TEXT),
        scope=_REQUESTS,
    ),
    _event("webhook.ping", "A test; goes to the webhook it was asked for.", {"webhook": _TEXT}, scope="webhooks"),
)
EVENTS: MappingProxyType[str, EventType] = MappingProxyType({event.name: event for event in _ALL})
PING = "webhook.ping"
# What can be subscribed to: a ping comes to whoever asks for it.
SUBSCRIBABLE = tuple(name for name in EVENTS if name != PING)
