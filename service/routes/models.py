"""/v1/models: register a network and its recipe."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.auth import Principal
from service.catalogue.policy import APPROVAL_BOUNDS, Policy
from service.catalogue.tasks import Task
from service.deps import PartsDep, needs, writing_as
from service.errors import Conflict, Forbidden
from service.lifecycle import JobKind
from service.routes import model_faults
from service.routes.policy_faults import REFERENCES_ARE_LOGITS
from service.schemas.common import Limit, Page, decode_cursor, encode_cursor
from service.schemas.drafts import Draft
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


def _refuse_bounds(who: Principal, asked: Policy, now: Mapping[str, Any]) -> None:
    """Raise Forbidden where a key that approves nothing would move the bound above which approval is needed."""
    moved = [bound for bound in APPROVAL_BOUNDS if getattr(asked, bound) != now.get(bound)]
    if moved and not who.may("approvals:write"):
        told = ", ".join(f"{bound} (now {now.get(bound)})" for bound in moved)
        raise Forbidden(f"Changing {told} takes a key with the scope 'approvals:write' too; leave it as it is.")


@router.post("", status_code=201, operation_id="register_model")
def register(
    body: Annotated[Draft[ModelIn], Body()],
    response: Response,
    parts: PartsDep,
    who: Annotated[Any, needs("models:write")],
) -> ModelOut:
    if body.read is not None:
        _refuse_bounds(who, body.read.policy, {})
    with writing_as(parts, who) as session:
        found = model_faults.checked(session, body)
        model = models.register(
            session,
            name=found.body.name,
            dataset=datasets.ready(session, found.body.dataset),
            task=found.task,
            architecture=found.body.architecture,
            architecture_options=found.options,
            recipe=found.recipe.model_dump(mode="json") if found.recipe else None,
            policy=found.body.policy.model_dump(mode="json"),
        )
        answer = view(session, model)
    response.headers["Location"] = f"/v1/models/{answer.name}"
    return answer


@router.put("/{name}/policy", operation_id="replace_policy")
def replace_policy(
    name: str, body: Annotated[Draft[Policy], Body()], parts: PartsDep, who: Annotated[Any, needs("models:write")]
) -> ModelOut:
    """Replace the rules for requests to come; those accepted already keep the rules they were accepted under.

    One thing holds at once for all: retain data that has gone is not there for an accepted request either.
    """
    with writing_as(parts, who) as session:
        model = models.by_name(session, name)
        if body.read is not None:
            _refuse_bounds(who, body.read, model.policy)
        policy = model_faults.checked_policy(session, body, model)
        models.replace_policy(session, model, policy.model_dump(mode="json"))
        return view(session, model)


@router.post("/{name}/prepare-audit", status_code=202, operation_id="prepare_audit")
def prepare_audit(name: str, parts: PartsDep, who: Annotated[Any, needs("models:write")]) -> PreparedOut:
    """Have a worker train reference models, whose logits make later attacks on this model stronger."""
    with writing_as(parts, who) as session:
        model = models.by_name(session, name)
        if model.recipe is None:
            detail = "Reference models are trained by the model's recipe, and it has none; register one with a recipe."
            raise Conflict(detail, code="model_has_no_recipe")
        if model.task != Task.CLASSIFICATION:
            detail = f"Model {name!r} is for {model.task}: {REFERENCES_ARE_LOGITS}."
            raise Conflict(detail, code="no_references_for_task")
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
