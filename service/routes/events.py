"""…/{id}/events: what happens to a request, as server-sent events, until it ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from service.deps import Parts, PartsDep, needs
from service.lifecycle import JOB_BUSY, RequestStatus
from service.store import events, requests

router = APIRouter(prefix="/v1/deletion-requests", tags=["deletion requests"])
POLL_SECONDS = 0.4
PING_SECONDS = 15.0
# To a client of a process that ends: when to come again. It goes on after the last event it has (Last-Event-ID).
GOODBYE = "retry: 1000\n: this process ends; connect again\n\n"
# Failed and held requests wait for a person: there may be no news for days, so those streams end too.
OVER = (
    RequestStatus.COMPLETED,
    RequestStatus.CANCELLED,
    RequestStatus.DENIED,
    RequestStatus.FAILED,
    RequestStatus.ON_HOLD,
)


@dataclass
class _Follower:
    """What one client has been told so far."""

    after: int
    progress: dict[str, Any] = field(default_factory=dict)
    over: bool = False


def _news(parts: Parts, request_id: str, follower: _Follower) -> list[str]:
    with parts.database.reading() as session:
        request = requests.get(session, request_id)
        found = events.of_request(session, request_id, after=follower.after)
        jobs = requests.jobs(session, [request_id])[request_id]
        follower.over = request.status in OVER and not found
    frames = [_frame(event.name, event.data, event.id) for event in found]
    if found:
        follower.after = found[-1].id
    for job, model in jobs:
        data = {"job": job.id, "model": model, "phase": job.phase, "done": job.done, "total": job.total}
        if job.status in JOB_BUSY and job.phase and follower.progress.get(job.id) != data:
            follower.progress[job.id] = data
            frames.append(_frame("progress", data))
    return frames


def _frame(name: str, data: dict[str, Any], event_id: int | None = None) -> str:
    mark = f"id: {event_id}\n" if event_id is not None else ""
    return f"{mark}event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


async def _stream(parts: Parts, request_id: str, follower: _Follower, request: Request) -> AsyncIterator[str]:
    quiet = 0.0
    while not follower.over and not await request.is_disconnected():
        if parts.draining.is_set():
            yield GOODBYE
            return
        frames = await run_in_threadpool(_news, parts, request_id, follower)
        for frame in frames:
            yield frame
        quiet = 0.0 if frames else quiet + POLL_SECONDS
        if quiet >= PING_SECONDS:
            quiet = 0.0
            yield ": still here\n\n"
        if not follower.over:
            await asyncio.sleep(POLL_SECONDS)


@router.get(
    "/{request_id}/events",
    operation_id="follow_deletion_request",
    dependencies=[needs("requests:read")],
    response_class=StreamingResponse,
)
def follow(
    request_id: str,
    request: Request,
    parts: PartsDep,
    last_event_id: Annotated[str | None, Header(max_length=18)] = None,
) -> StreamingResponse:
    """Stream `state`, `progress`, `attempt`, `evaluation` and `published` events; resumes by Last-Event-ID."""
    with parts.database.reading() as session:
        requests.get(session, request_id)
    after = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
    stream = _stream(parts, request_id, _Follower(after=after), request)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
