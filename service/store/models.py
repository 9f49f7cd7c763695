"""Registered models: the family a version belongs to."""

from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import AlreadyExists, Conflict, NotFound
from service.store import audit
from service.store.tables import Dataset, Model, Version
from service.store.types import new_id


def register(
    session: Session,
    *,
    name: str,
    dataset: Dataset,
    task: str,
    architecture: str,
    architecture_options: dict[str, Any],
    recipe: dict[str, Any] | None,
    policy: dict[str, Any],
) -> Model:
    """Add a model without versions. Raises AlreadyExists."""
    if session.scalar(select(Model.id).where(Model.name == name)):
        raise AlreadyExists(f"There is a model named {name!r} already; choose another name.")
    model = Model(
        id=new_id("mdl"),
        name=name,
        dataset_id=dataset.id,
        task=task,
        architecture=architecture,
        architecture_options=architecture_options,
        recipe=recipe,
        policy=policy,
    )
    session.add(model)
    try:
        session.flush()
    except IntegrityError:  # somebody else took the name in the same instant
        raise AlreadyExists(f"There is a model named {name!r} already; choose another name.") from None
    audit.record(
        session,
        "model.registered",
        subject=f"model/{name}",
        payload={
            "dataset": dataset.name,
            "task": task,
            "architecture": architecture,
            "recipe": recipe,
            "policy": policy,
        },
        links={"model": name, "dataset": dataset.name},
    )
    return model


def replace_policy(session: Session, model: Model, policy: dict[str, Any]) -> None:
    """Replace the model's policy, in full."""
    model.policy = policy
    audit.record(
        session,
        "model.policy_replaced",
        subject=f"model/{model.name}",
        payload={"policy": policy},
        links={"model": model.name},
    )


def retain_data_gone(session: Session, model: Model) -> bool:
    """Say whether the retain data may not be read: the policy calls it gone, and the model has a version.

    A model without any has no retain data yet: its first training reads what the policy then calls gone.
    """
    return model.policy.get("retain_data") == "gone" and bool(
        session.scalar(select(exists().where(Version.model_id == model.id)))
    )


def refuse_without_retain_data(session: Session, model: Model) -> None:
    """Raise Conflict where the retain data is gone: nothing is trained or prepared on it then."""
    if retain_data_gone(session, model):
        detail = (
            f"Model {model.name!r}'s policy calls the retain data gone, so nothing can be trained or prepared on it."
        )
        raise Conflict(detail, code="retain_data_gone")


def by_name(session: Session, name: str) -> Model:
    """Return the model. Raises NotFound."""
    model = session.scalar(select(Model).where(Model.name == name))
    if model is None:
        raise NotFound(f"There is no model named {name!r}; GET /v1/models lists them.", code="model_not_found")
    return model


def of_dataset(session: Session, dataset_id: str) -> list[Model]:
    return list(session.scalars(select(Model).where(Model.dataset_id == dataset_id).order_by(Model.id)))


def page(session: Session, *, after: str, limit: int) -> list[Model]:
    return list(session.scalars(select(Model).where(Model.name > after).order_by(Model.name).limit(limit)))
