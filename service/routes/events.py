"""…/{id}/events: what happens to a request, as server-sent events, until it ends."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from service.deps import Parts, PartsDep, needs
from service.lifecycle import JOB_BUSY, RequestStatus
from service.store import events, requests

router = APIRouter(prefix="/v1/deletion-requests", tags=["deletion requests"])
POLL_SECONDS, SLOWEST_POLL_SECONDS = 0.4, 2.0
PING_SECONDS = 15.0
# To a client of a process that ends: when to come again. It goes on after the last event it has (Last-Event-ID).
GOODBYE = "retry: 1000\n: this process ends; connect again\n\n"
# Of each event in the stream.
_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "For `Last-Event-ID`; `progress` has none."},
        "event": {"enum": ["state", "progress", "attempt", "evaluation", "published"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_EVENT_ID = re.compile(r"[0-9]{1,18}")
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


async def _rest(parts: Parts, seconds: float) -> None:
    """Sleep so long, or until the process is asked to end."""
    until = time.monotonic() + seconds
    while not parts.draining.is_set() and (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(left, POLL_SECONDS))


async def _stream(parts: Parts, request_id: str, follower: _Follower, request: Request) -> AsyncIterator[str]:
    """Yield what there is to tell. A client that does not read holds its stream up, and nothing else."""
    begun, quiet, wait = time.monotonic(), 0.0, POLL_SECONDS
    with parts.streams.one_more():
        while time.monotonic() - begun < parts.settings.stream_seconds and not await request.is_disconnected():
            if parts.draining.is_set():
                yield GOODBYE
                return
            frames = await run_sync(_news, parts, request_id, follower, limiter=parts.streams.threads)
            for frame in frames:
                yield frame
            if follower.over:
                return
            wait = POLL_SECONDS if frames else min(1.5 * wait, SLOWEST_POLL_SECONDS)
            quiet = 0.0 if frames else quiet + wait
            if quiet >= PING_SECONDS:
                quiet = 0.0
                yield ": still here\n\n"
            await _rest(parts, wait)


@router.get(
    "/{request_id}/events",
    operation_id="follow_deletion_request",
    dependencies=[needs("requests:read")],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": _EVENT}}}},
)
def follow(
    request_id: str,
    request: Request,
    parts: PartsDep,
    last_event_id: Annotated[str, Header(max_length=18, description="What is no number is ignored.")] = "",
) -> StreamingResponse:
    """Stream `state`, `progress`, `attempt`, `evaluation` and `published` events; resumes by Last-Event-ID.

    It ends with the request, and after `UNLEARN_STREAM_SECONDS` in any case. `progress` has no id and is not repeated.
    """
    with parts.database.reading() as session:
        requests.get(session, request_id)
    parts.streams.refuse_beyond(parts.settings.max_streams)
    after = int(last_event_id) if _EVENT_ID.fullmatch(last_event_id) else 0
    stream = _stream(parts, request_id, _Follower(after=after), request)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
