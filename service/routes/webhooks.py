"""/v1/webhooks: where a key wants to be told of what happens. Each endpoint belongs to the key that made it."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Response

from service.auth import Principal
from service.catalogue.webhook_events import EVENTS, SUBSCRIBABLE
from service.deps import Parts, PartsDep, needs, writing_as
from service.errors import Fault, InvalidRequest
from service.schemas.common import Limit, Page, decode_cursor, encode_cursor
from service.schemas.webhooks import (
    EventTypeOut,
    EventTypesOut,
    RotateIn,
    SecretOut,
    WebhookCreated,
    WebhookIn,
    WebhookOut,
    WebhookPatch,
)
from service.store import webhooks
from service.store.tables import WebhookEndpoint
from service.store.types import now
from service.webhooks import signatures
from service.webhooks.targets import Allowed, Guard, TargetRefused

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
Reader = Annotated[Principal, needs("webhooks:read")]
Writer = Annotated[Principal, needs("webhooks:write")]


def owner(who: Principal) -> str | None:
    """Return whose endpoints the principal may see: its own, or everybody's (None) if it is an administrator."""
    return None if who.may("admin") else who.id


def view(row: WebhookEndpoint) -> dict[str, Any]:
    same = {"id", "url", "events", "description", "enabled", "disabled_reason", "previous_secret_until", "created_at"}
    return {"owner": row.key_id, **{field: getattr(row, field) for field in same}}


@router.get("/events", operation_id="list_webhook_events", dependencies=[needs("webhooks:read")])
def event_types() -> EventTypesOut:
    """List what can be told of, with the JSON Schema of each payload."""
    found = [EVENTS[name] for name in EVENTS]
    return EventTypesOut(
        items=[
            EventTypeOut(
                name=each.name,
                summary=each.summary,
                scope=each.scope,
                addressed=each.addressed,
                payload_schema=each.schema,
            )
            for each in found
        ]
    )


@router.post("", status_code=201, operation_id="create_webhook")
def create(body: WebhookIn, parts: PartsDep, who: Writer) -> WebhookCreated:
    """Make an endpoint; the secret is in this answer and nowhere else."""
    events = body.events or [webhooks.ALL]
    faults = [*_event_faults(events, who.may), *_secret_faults(body.secret)]
    host = _check(parts, body.url, faults)
    secret = body.secret or signatures.new_secret()
    endpoint_id = webhooks.new_endpoint_id()
    sealed = signatures.seal(parts.settings.master_key_bytes, endpoint_id, secret)
    with writing_as(parts, who) as session:
        row = webhooks.create(
            session,
            endpoint_id=endpoint_id,
            key_id=who.id,
            url=body.url,
            host=host,
            events=events,
            description=body.description,
            secret=sealed,
        )
        return WebhookCreated(secret=secret, **view(row))


def _check(parts: Parts, url: str | None, faults: list[Fault]) -> str:
    """Return the host of a URL that may be called. Raises InvalidRequest with the faults known and the URL's."""
    host = ""
    if url is not None:
        guard = Guard(allowed=Allowed.parse(parts.settings.webhook_allowed_hosts))
        try:
            host = guard.target(url).url.host
        except TargetRefused as refusal:
            faults = [*faults, *refusal.faults]
    if faults:
        raise InvalidRequest("The webhook cannot be accepted as it is; every fault is listed.", faults=faults)
    return host


def _event_faults(events: list[str], may: Any) -> list[Fault]:
    if events == [webhooks.ALL]:
        return []
    faults = []
    for index, name in enumerate(events):
        pointer = f"/events/{index}"
        if name not in SUBSCRIBABLE:
            detail = f'Known: {", ".join(SUBSCRIBABLE)}; or ["{webhooks.ALL}"] alone for all.'
            faults.append(Fault(pointer, "unknown_event_type", name[:100], detail))
        elif not may(EVENTS[name].scope):
            faults.append(Fault(pointer, "scope_missing", name, f"The key needs the scope {EVENTS[name].scope!r}."))
    return faults


def _secret_faults(secret: str | None) -> list[Fault]:
    if secret is None or signatures.is_secret(secret):
        return []
    detail = (
        f"A secret is {signatures.PREFIX!r} and {signatures.LEAST_BYTES} to {signatures.MOST_BYTES} bytes in base64; "
        "leave it out to have one made."
    )
    return [Fault("/secret", "invalid_webhook_secret", None, detail)]


@router.get("", operation_id="list_webhooks")
def list_all(parts: PartsDep, who: Reader, limit: Limit = 100, cursor: str | None = None) -> Page[WebhookOut]:
    after = decode_cursor(cursor) or ""
    with parts.database.reading() as session:
        rows = webhooks.page(session, key_id=owner(who), after=after, limit=limit)
    items = [WebhookOut(**view(row)) for row in rows]
    return Page(items=items, next_cursor=encode_cursor(rows[-1].id) if len(rows) == limit else None)


@router.get("/{webhook_id}", operation_id="get_webhook")
def get(webhook_id: str, parts: PartsDep, who: Reader) -> WebhookOut:
    with parts.database.reading() as session:
        return WebhookOut(**view(webhooks.get(session, webhook_id, key_id=owner(who))))


@router.patch("/{webhook_id}", operation_id="change_webhook")
def change(webhook_id: str, body: WebhookPatch, parts: PartsDep, who: Writer) -> WebhookOut:
    """Replace what is named; what is pending goes to the new URL."""
    changes = {name: value for name, value in body.model_dump(exclude_unset=True).items() if value is not None}
    with parts.database.reading() as session:  # a name is looked up below: not while a row is locked
        row = webhooks.get(session, webhook_id, key_id=owner(who))
        scopes = webhooks.scopes_of(session, row)
    of_owner = Principal(id=row.key_id, name="", scopes=scopes)
    host = _check(parts, body.url, _event_faults(body.events or [webhooks.ALL], of_owner.may))
    with writing_as(parts, who) as session:
        row = webhooks.get(session, webhook_id, key_id=owner(who), lock=True)
        if changes:
            webhooks.change(session, row, changes, host=host or None)
        return WebhookOut(**view(row))


@router.delete("/{webhook_id}", status_code=204, operation_id="delete_webhook", response_class=Response)
def delete(webhook_id: str, parts: PartsDep, who: Writer) -> Response:
    """Delete the endpoint and everything still on its way to it."""
    with writing_as(parts, who) as session:
        webhooks.delete(session, webhooks.get(session, webhook_id, key_id=owner(who), lock=True))
    return Response(status_code=204)


@router.post("/{webhook_id}/rotate-secret", operation_id="rotate_webhook_secret")
def rotate(webhook_id: str, parts: PartsDep, who: Writer, body: RotateIn | None = None) -> SecretOut:
    """Sign with a new secret; the one until now signs beside it for ``overlap_seconds``."""
    body = body or RotateIn()
    _check(parts, None, _secret_faults(body.secret))
    secret = body.secret or signatures.new_secret()
    sealed = signatures.seal(parts.settings.master_key_bytes, webhook_id, secret)
    with writing_as(parts, who) as session:
        row = webhooks.get(session, webhook_id, key_id=owner(who), lock=True)
        until = now() + timedelta(seconds=body.overlap_seconds) if body.overlap_seconds else None
        webhooks.rotate(session, row, sealed, previous_until=until)
        return SecretOut(secret=secret, previous_secret_until=row.previous_secret_until)
