"""/v1/models/{name}/versions: train or upload an original, read lineage and state."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from service import weights_header
from service.artifacts import file_digest
from service.auth import Principal
from service.catalogue.tasks import Task
from service.deps import Parts, PartsDep, needs, writing_as
from service.digest_headers import stated_sha256
from service.errors import Conflict, InvalidRequest, MalformedBody, PreconditionFailed
from service.lifecycle import JobKind, VersionState
from service.problems import validation_faults
from service.routes import average_faults, policy_faults
from service.schemas.common import Limit, Number, Page, decode_number, encode_cursor
from service.schemas.models import PreparationOut, PrepareIn, PreparingOut, TrainIn, TrainingOut, VersionOut
from service.store import attaching, datasets, digests, jobs, models, preparations, versions
from service.store.tables import Model, Version

router = APIRouter(prefix="/v1/models/{name}/versions", tags=["versions"])
WEIGHTS = "application/vnd.safetensors"
VersionNumber = Number | Literal["latest"]


def view(session: Session, model: Model, version: Version) -> VersionOut:
    parent = session.scalar(select(Version.number).where(Version.id == version.parent_id))
    columns = {
        field: getattr(version, field)
        for field in VersionOut.model_fields
        if field not in ("model", "task", "parent", "job", "prepared")
    }
    prepared = [
        PreparationOut(**{field: getattr(row, field) for field in PreparationOut.model_fields})
        for row in preparations.of_version(session, version.id)
    ]
    return VersionOut(model=model.name, task=model.task, parent=parent, prepared=prepared, **columns)


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            WEIGHTS: {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": TrainIn.model_json_schema()},
        },
    }
}


_CREATED: dict[int | str, dict[str, Any]] = {
    201: {"model": VersionOut, "description": "Stored; a worker checks the weights."},
    202: {"model": TrainingOut, "description": "A worker trains them."},
}


@router.post(
    "", status_code=201, operation_id="create_version", openapi_extra=_BODY, response_model=None, responses=_CREATED
)
async def create(
    name: str, request: Request, parts: PartsDep, who: Annotated[Principal, needs("models:write")]
) -> Response:
    """Upload original weights (safetensors, 201), or have a worker train them (`{"train": true}`, 202)."""
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media == WEIGHTS:
        return await _upload(name, request, parts, who)
    if media == "application/json":
        raw = await request.body()
        return await run_in_threadpool(_train, name, raw, parts, who)
    raise HTTPException(415, f"Send {WEIGHTS}, or application/json to have the version trained.")


def _train(name: str, raw: bytes, parts: Parts, who: Principal) -> Response:
    try:
        TrainIn.model_validate(json.loads(raw))
    except ValidationError as error:
        raise InvalidRequest('Send {"train": true}.', faults=validation_faults(error.errors())) from None
    except (ValueError, RecursionError):
        raise MalformedBody('The body is not JSON; send {"train": true}.') from None
    with writing_as(parts, who) as session:
        model = models.by_name(session, name)
        if model.recipe is None:
            raise Conflict(f"Model {name!r} has no training recipe; upload weights instead.", code="no_recipe")
        models.refuse_without_retain_data(session, model)
        job = jobs.create(session, JobKind.TRAIN, dataset_id=model.dataset_id, model_id=model.id)
        body = {"job": {"id": job.id}, "model": name, "state": "queued"}
    parts.bell.ring([job.id])
    return Response(json.dumps(body), 202, {"Location": f"/v1/jobs/{job.id}"}, "application/json")


async def _upload(name: str, request: Request, parts: Parts, who: Principal) -> Response:
    stated = stated_sha256(request.headers)
    with tempfile.TemporaryDirectory(dir=_scratch(parts)) as folder:
        path = Path(folder) / "weights"
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        answer, job_id = await run_in_threadpool(_keep, name, path, stated, parts, who)
    parts.bell.ring([job_id])
    location = f"/v1/models/{name}/versions/{answer.number}"
    return Response(answer.model_dump_json(), 201, {"Location": location}, "application/json")


def _scratch(parts: Parts) -> Path:
    folder = parts.settings.data_dir / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _keep(name: str, path: Path, stated: str | None, parts: Parts, who: Principal) -> tuple[VersionOut, str]:
    digest = file_digest(path)
    if stated is not None and stated != digest:
        raise PreconditionFailed(f"The body's SHA-256 is {digest}, Repr-Digest states {stated}.")
    with path.open("rb") as file:
        content = weights_header.content_digest(file, size=path.stat().st_size)
    with parts.database.reading() as session:
        _refuse_average(models.by_name(session, name), path)
        versions.refuse_retired_digest(session, digest, content)
    # The bytes are kept before the row that names them: a crash in between leaves an orphan, never a hole.
    parts.artifacts.put(path, sha256=digest)
    with writing_as(parts, who) as session:
        digests.hold(session, digest)
        model = models.by_name(session, name)
        datasets.lock(session, model.dataset_id)
        versions.refuse_retired_digest(session, digest, content)
        parts.artifacts.ensure(path, digest)
        version = versions.create(
            session,
            model,
            state=VersionState.VALIDATING,
            role="original",
            origin="uploaded",
            sha256=digest,
            content_sha256=content,
            size_bytes=path.stat().st_size,
        )
        versions.exclude_erased(session, version, model.dataset_id)
        versions.count_training(session, version, model.dataset_id)
        job = jobs.create(
            session, JobKind.VALIDATE, dataset_id=model.dataset_id, model_id=model.id, version_id=version.id
        )
        version.job_id = job.id
        session.flush()
        attaching.attach_open_requests(session, model)
        answer = view(session, model, version)
        answer.job = {"id": job.id}
    return answer, job.id


def _refuse_average(model: Model, path: Path) -> None:
    if model.task == Task.GENERATION:
        average_faults.refuse(weights_header.check(path), model.name)


@router.get("", operation_id="list_versions", dependencies=[needs("models:read")])
def list_all(name: str, parts: PartsDep, limit: Limit = 100, cursor: str | None = None) -> Page[VersionOut]:
    with parts.database.reading() as session:
        model = models.by_name(session, name)
        rows = versions.page(session, model, after=decode_number(cursor, 0), limit=limit)
        items = [view(session, model, row) for row in rows]
    return Page(items=items, next_cursor=encode_cursor(rows[-1].number) if len(rows) == limit else None)


@router.get("/{number}", operation_id="get_version", dependencies=[needs("models:read")])
def get(name: str, number: VersionNumber, parts: PartsDep) -> VersionOut:
    """Return a version by number, or the newest active one: `latest`."""
    with parts.database.reading() as session:
        model = models.by_name(session, name)
        return view(session, model, versions.get(session, model, number))


@router.post("/{number}/prepare", status_code=202, operation_id="prepare_version")
def prepare(
    name: str, number: VersionNumber, body: PrepareIn, parts: PartsDep, who: Annotated[Principal, needs("models:write")]
) -> PreparingOut:
    """Have a worker make now what later requests on this version would else have to pay for; it goes with the version.

    With `importance_loss` method `ssd` works when the retain data has gone, and at a cost that does not grow with it.
    """
    with writing_as(parts, who) as session:
        model = models.by_name(session, name)
        _refuse_preparations(body, Task(model.task))
        job = preparations.ask_for(session, model, versions.get(session, model, number), body.prepare)
        answer = PreparingOut(job={"id": job.id}, prepare=sorted((job.method_options or {})["prepare"]))
    parts.bell.ring([answer.job["id"]])
    return answer


def _refuse_preparations(body: PrepareIn, task: Task) -> None:
    faults = [policy_faults.preparation_fault(f"/prepare/{i}", each, task) for i, each in enumerate(body.prepare)]
    if found := [fault for fault in faults if fault is not None]:
        raise InvalidRequest("Not all of this can be used once it is prepared; every fault is listed.", faults=found)
