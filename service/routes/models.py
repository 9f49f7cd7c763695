"""/v1/models: register a network and its recipe."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.auth import Principal
from service.catalogue.architectures import ARCHITECTURES, ArchitectureOptions, ArchitectureSpec
from service.catalogue.policy import APPROVAL_BOUNDS, Policy
from service.deps import PartsDep, needs, writing_as
from service.errors import Conflict, Fault, Forbidden, InvalidRequest
from service.lifecycle import JobKind
from service.problems import validation_faults
from service.schemas.common import Limit, Page, decode_cursor, encode_cursor
from service.schemas.models import ModelIn, ModelOut, PreparedOut
from service.store import datasets, models, references
from service.store.tables import Dataset, Model

router = APIRouter(prefix="/v1/models", tags=["models"])


def view(session: Session, model: Model) -> ModelOut:
    return ModelOut(
        name=model.name,
        dataset=str(session.scalar(select(Dataset.name).where(Dataset.id == model.dataset_id))),
        architecture=model.architecture,
        architecture_options=model.architecture_options,
        task=model.task,
        recipe=model.recipe,
        policy=model.policy,
        created_at=model.created_at,
    )


def _options(body: ModelIn, dataset: Dataset | None) -> dict[str, Any]:
    """Return the architecture's options with defaults filled in. Raises InvalidRequest with every fault."""
    faults: list[Fault] = []
    if dataset is None:
        faults.append(Fault("/dataset", "dataset_not_found", body.dataset, "GET /v1/datasets lists the datasets."))
    spec = ARCHITECTURES.get(body.architecture)
    options: dict[str, Any] = {}
    if spec is None:
        known = ", ".join(sorted(ARCHITECTURES))
        faults.append(Fault("/architecture", "unknown_architecture", body.architecture, f"Known: {known}."))
    else:
        try:
            chosen = spec.options.model_validate(body.architecture_options)
            options = chosen.model_dump(mode="json")
            faults += _size_faults(spec, chosen, dataset)
        except ValidationError as error:
            faults += [
                Fault(f"/architecture_options{f.pointer}", f.code, f.value, f.detail)
                for f in validation_faults(error.errors())
            ]
    if faults:
        raise InvalidRequest("The model cannot be registered; every fault is listed.", faults=faults)
    return options


def _size_faults(spec: ArchitectureSpec, chosen: ArchitectureOptions, dataset: Dataset | None) -> list[Fault]:
    """Say whether the dataset's images, once known, are too small for the network, and what to do then."""
    if dataset is None or not dataset.image_shape:
        return []
    _, height, width = dataset.image_shape
    side, smallest, default = min(height, width), chosen.min_image_size, spec.min_image_size
    if side >= smallest:
        return []
    found = f"{spec.id} with these options takes images from {smallest}x{smallest} pixels."
    if side >= default:
        remedy = f"{found} The default options, {spec.options().model_dump(mode='json')}, take them from {default}."
        return [Fault("/architecture_options", "image_too_small", f"{height}x{width}", remedy)]
    remedy = f"{found} Choose another architecture, or another dataset whose images are larger."
    return [Fault("/architecture", "image_too_small", f"{height}x{width}", remedy)]


def _refuse_bounds(who: Principal, asked: Policy, now: Mapping[str, Any]) -> None:
    """Raise Forbidden where a key that approves nothing would move the bound above which approval is needed."""
    moved = [bound for bound in APPROVAL_BOUNDS if getattr(asked, bound) != now.get(bound)]
    if moved and not who.may("approvals:write"):
        told = ", ".join(f"{bound} (now {now.get(bound)})" for bound in moved)
        raise Forbidden(f"Changing {told} takes a key with the scope 'approvals:write' too; leave it as it is.")


@router.post("", status_code=201, operation_id="register_model")
def register(
    body: ModelIn, response: Response, parts: PartsDep, who: Annotated[Any, needs("models:write")]
) -> ModelOut:
    _refuse_bounds(who, body.policy, {})
    with writing_as(parts, who) as session:
        found = session.scalar(select(Dataset).where(Dataset.name == body.dataset))
        options = _options(body, found)
        dataset = datasets.ready(session, body.dataset)
        model = models.register(
            session,
            name=body.name,
            dataset=dataset,
            task=body.task,
            architecture=body.architecture,
            architecture_options=options,
            recipe=body.recipe.model_dump(mode="json") if body.recipe else None,
            policy=body.policy.model_dump(mode="json"),
        )
        answer = view(session, model)
    response.headers["Location"] = f"/v1/models/{body.name}"
    return answer


@router.put("/{name}/policy", operation_id="replace_policy")
def replace_policy(name: str, body: Policy, parts: PartsDep, who: Annotated[Any, needs("models:write")]) -> ModelOut:
    """Replace the rules for requests to come; those accepted already keep the rules they were accepted under.

    One thing holds at once for all: retain data that has gone is not there for an accepted request either.
    """
    with writing_as(parts, who) as session:
        model = models.by_name(session, name)
        _refuse_bounds(who, body, model.policy)
        models.replace_policy(session, model, body.model_dump(mode="json"))
        return view(session, model)


@router.post("/{name}/prepare-audit", status_code=202, operation_id="prepare_audit")
def prepare_audit(name: str, parts: PartsDep, who: Annotated[Any, needs("models:write")]) -> PreparedOut:
    """Have a worker train reference models, whose logits make later attacks on this model stronger."""
    with writing_as(parts, who) as session:
        model = models.by_name(session, name)
        if model.recipe is None:
            detail = "Reference models are trained by the model's recipe, and it has none; register one with a recipe."
            raise Conflict(detail, code="model_has_no_recipe")
        job = references.ask_for(session, model, JobKind.PREPARE)
        answer = PreparedOut(job={"id": job.id}, models=model.policy.get("reference_models", 8))
    parts.bell.ring([answer.job["id"]])
    return answer


@router.get("", operation_id="list_models", dependencies=[needs("models:read")])
def list_all(parts: PartsDep, limit: Limit = 100, cursor: str | None = None) -> Page[ModelOut]:
    with parts.database.reading() as session:
        rows = models.page(session, after=decode_cursor(cursor) or "", limit=limit)
        items = [view(session, row) for row in rows]
    return Page(items=items, next_cursor=encode_cursor(items[-1].name) if len(items) == limit else None)


@router.get("/{name}", operation_id="get_model", dependencies=[needs("models:read")])
def get(name: str, parts: PartsDep) -> ModelOut:
    with parts.database.reading() as session:
        return view(session, models.by_name(session, name))
