"""/v1/datasets: register a source, follow its indexing, page through its samples."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import allowed_roots
from service.catalogue.sources import SOURCES
from service.deps import PartsDep, needs, writing_as
from service.errors import Fault, InvalidRequest
from service.lifecycle import JobKind
from service.schemas.common import Limit, Number, Page, decode_cursor, decode_number, encode_cursor
from service.schemas.datasets import DatasetIn, DatasetOut, Decode, SampleOut
from service.settings import Settings
from service.store import datasets, jobs, reindexing, samples
from service.store.tables import Dataset, Job

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


def view(session: Session, dataset: Dataset) -> DatasetOut:
    job = session.scalar(
        select(Job.id)
        .where(Job.dataset_id == dataset.id, Job.kind.in_((JobKind.INDEX, JobKind.REINDEX)))
        .order_by(Job.id.desc())
        .limit(1)
    )
    again = dataset.digest is not None and reindexing.open_job(session, dataset.id) is not None
    return DatasetOut(
        name=dataset.name,
        source=dataset.source["source"],
        state=datasets.INDEXING if again else dataset.state,
        num_samples=dataset.num_samples,
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        splits=samples.count_by_split(session, dataset.id) if dataset.state == datasets.READY else {},
        digest=dataset.digest,
        error=dataset.error,
        reindexed=dataset.reindexed,
        job={"id": job} if job else None,
        created_at=dataset.created_at,
    )


def _source(settings: Settings, body: DatasetIn) -> dict[str, Any]:
    source: dict[str, Any] = {"source": body.source}
    for field in ("root", "path"):
        location = getattr(body, field)
        if location is not None:
            source[field] = str(allowed_roots.resolve(settings, location, pointer=f"/{field}"))
    if SOURCES[body.source].decodes:
        source["decode"] = (body.decode or Decode()).model_dump(mode="json")
    if body.subset is not None:
        source["subset"] = body.subset.model_dump()
    return source


@router.post("", status_code=202, operation_id="register_dataset")
def register(
    body: DatasetIn, response: Response, parts: PartsDep, who: Annotated[Any, needs("datasets:write")]
) -> DatasetOut:
    """Register a source; a worker indexes its sample IDs."""
    source = _source(parts.settings, body)
    with writing_as(parts, who) as session:
        dataset = datasets.register(session, name=body.name, source=source)
        job_id = jobs.create(session, JobKind.INDEX, dataset_id=dataset.id).id
        answer = view(session, dataset)
    parts.bell.ring([job_id])
    response.headers["Location"] = f"/v1/datasets/{body.name}"
    return answer


@router.get("", operation_id="list_datasets", dependencies=[needs("datasets:read")])
def list_all(parts: PartsDep, limit: Limit = 100, cursor: str | None = None) -> Page[DatasetOut]:
    with parts.database.reading() as session:
        rows = datasets.page(session, after=decode_cursor(cursor) or "", limit=limit)
        items = [view(session, row) for row in rows]
    return Page(items=items, next_cursor=encode_cursor(items[-1].name) if len(items) == limit else None)


@router.get("/{name}", operation_id="get_dataset", dependencies=[needs("datasets:read")])
def get(name: str, parts: PartsDep) -> DatasetOut:
    with parts.database.reading() as session:
        return view(session, datasets.by_name(session, name))


@router.post("/{name}/reindex", status_code=202, operation_id="reindex_dataset")
def reindex(name: str, response: Response, parts: PartsDep, who: Annotated[Any, needs("datasets:write")]) -> DatasetOut:
    """Have a worker read the source again: new samples come in, erased ones never do."""
    with writing_as(parts, who) as session:
        job_id = reindexing.ask_for(session, name).id
        answer = view(session, datasets.by_name(session, name))
    parts.bell.ring([job_id])
    response.headers["Location"] = f"/v1/datasets/{name}"
    return answer


@router.get("/{name}/samples", operation_id="list_samples", dependencies=[needs("datasets:read")])
def list_samples(
    name: str,
    parts: PartsDep,
    split: Annotated[str | None, Query(pattern="^(train|validation|test)$")] = None,
    label: Number | None = None,
    limit: Limit = 100,
    cursor: str | None = None,
) -> Page[SampleOut]:
    """Page through the samples that are not erased; the cursor holds no sample ID."""
    with parts.database.reading() as session:
        dataset = datasets.ready(session, name)
        _refuse_unknown_label(dataset, label)
        rows = samples.page(session, dataset.id, split=split, label=label, after=decode_number(cursor, 0), limit=limit)
    items = [SampleOut(sample_id=str(row.sample_id), split=row.split, label=row.label) for row in rows]
    return Page(items=items, next_cursor=encode_cursor(rows[-1].id) if len(rows) == limit else None)


def _refuse_unknown_label(dataset: Dataset, label: int | None) -> None:
    """Refuse a class that the dataset cannot have; one whose samples are all erased has an empty page."""
    if label is not None and label >= dataset.num_classes:
        detail = f"Labels of dataset {dataset.name!r} are 0 to {dataset.num_classes - 1}."
        raise InvalidRequest(detail, faults=[Fault("/query/label", "unknown_label", label, detail)])
