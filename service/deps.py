"""What routes ask for: the process's parts, the principal, and a transaction under their name."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from service.auth import Principal
from service.dispatch import Bell
from service.errors import Unauthenticated
from service.lanes import Lanes
from service.own_artifacts import OwnArtifacts
from service.seen_keys import SeenKeys
from service.settings import Settings
from service.store import audit, keys
from service.store.intake import Secrets
from service.store.queue_forecast import QueueForecasts
from service.store.session import Database
from service.streams import Streams

_bearer = HTTPBearer(auto_error=False, description="An API key made by `unlearn keys create`.")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What one API process holds open. ``draining`` is set once it is asked to end."""

    settings: Settings
    database: Database
    artifacts: OwnArtifacts
    bell: Bell
    secrets: Secrets
    seen: SeenKeys = field(default_factory=SeenKeys)
    draining: threading.Event = field(default_factory=threading.Event)
    streams: Streams = field(default_factory=Streams)
    lanes: Lanes = field(default_factory=Lanes)
    forecasts: QueueForecasts = field(default_factory=QueueForecasts)


async def parts(request: Request) -> Parts:
    # Asynchronous, like `check`, because it waits for nothing: a plain function would cost a turn in the thread pool.
    found: Parts = request.app.state.parts
    return found


PartsDep = Annotated[Parts, Depends(parts)]


def principal(
    found: PartsDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Principal:
    """Return who is asking. Raises Unauthenticated."""
    if credentials is None:
        raise Unauthenticated("Send an API key: Authorization: Bearer <key>.")
    with found.database.looking_up() as connection:
        key = keys.find(connection, credentials.credentials)
    if key is None:
        raise Unauthenticated("The API key is unknown, revoked or expired.")
    found.seen.note(keys.digest(credentials.credentials.strip()), key.id)
    return Principal(id=key.id, name=key.name, scopes=key.scopes, quotas=key.quotas or {})


def needs(scope: str) -> Any:
    """Return a dependency that yields the principal if it has the scope."""

    async def check(found: Annotated[Principal, Depends(principal)]) -> Principal:
        found.require(scope)
        return found

    return Depends(check)


@contextmanager
def writing_as(found: Parts, who: Principal) -> Iterator[Session]:
    """Yield a writing transaction whose audit entries name the principal."""
    with found.database.writing() as session:
        audit.act_as(session, who.id)
        yield session


Ring = Callable[[list[str]], None]
