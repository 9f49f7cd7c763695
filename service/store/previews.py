"""What a deletion request would do, from the same reading as its intake; nothing is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy.orm import Session

from service import deadlines
from service.catalogue.ladders import ladder_of, scenario_of
from service.catalogue.methods import AUTO, METHODS
from service.errors import Fault, InvalidRequest
from service.lifecycle import JobKind
from service.store import audit, fan_out, intake, queue_forecast, shares
from service.store.fan_out import Concerned
from service.store.intake import Order, Resolved, Secrets
from service.store.tables import Dataset
from service.store.types import now


@dataclass(frozen=True, kw_only=True)
class Preview:
    dataset: Dataset
    faults: list[Fault]
    counts: dict[str, int]
    models: list[dict[str, Any]]
    received_at: datetime
    due_at: datetime | None

    @property
    def approval_needed(self) -> bool:
        return any(model["approval_reasons"] for model in self.models)


def preview(session: Session, order: Order, secrets: Secrets, known: Sequence[Fault] = ()) -> Preview:
    """Return what the order would do and every fault for which it would be refused; ``known`` are those of its body.

    Raises InvalidRequest or Conflict where the dataset cannot be used, since then nothing can be said.
    """
    faults = list(known)
    dataset = intake.dataset_of(session, order.dataset, faults, lock=False)
    if dataset is None:
        raise InvalidRequest("The request names a dataset that cannot be used.", faults=faults)
    targets = intake.targets_of(session, dataset, order.models, faults)
    ids = intake.resolve(session, dataset, order, secrets)
    if not order.report_unresolved:
        faults += intake.not_found(order, ids.unresolved)
    found = fan_out.concerned(session, targets, [row.id for row in ids.found if row.pool == "train"])
    faults += intake.unmet(session, order, found, ids.found, faults)
    received = order.received_at or now()
    return Preview(
        dataset=dataset,
        faults=faults,
        counts=_counts(order, ids, found),
        models=[_model(session, order, each, ids, secrets) for each in found],
        received_at=received,
        due_at=deadlines.due(received, secrets.time_zone) if order.purpose == "privacy" else None,
    )


def note(session: Session, order: Order, found: Preview) -> None:
    """Record that somebody asked: a preview tells of samples, and so is a sensitive read. Counts only."""
    payload = {
        "purpose": order.purpose,
        # An unknown one is whatever the caller wrote there, which the log must not keep.
        "method": order.method if order.method in (AUTO, *METHODS) else None,
        "counts": found.counts,
        "models": [model["model"] for model in found.models],
        "faults": len(found.faults),
    }
    subject = f"dataset/{found.dataset.name}"
    audit.record(session, "request.previewed", subject=subject, payload=payload, links={"dataset": found.dataset.name})


def _counts(order: Order, ids: Resolved, found: Sequence[Concerned]) -> dict[str, int]:
    trained_on = len(frozenset[int]().union(*(model.keys for model in found)))
    return {
        "named": len(order.sample_ids),
        "found": len(ids.found),
        "not_found": len(ids.unresolved),
        "already_erased": len(ids.erased),
        "trained_on": trained_on,
        "not_trained_on": len(ids.found) - trained_on,
    }


def _model(session: Session, order: Order, model: Concerned, ids: Resolved, secrets: Secrets) -> dict[str, Any]:
    version, known = model.known[-1]
    asked = shares.Classes.of_rows(ids.found)
    classes = shares.of_classes(session, model, asked)
    policy = fan_out.frozen_policy(model.model, order.purpose).policy
    scenario = scenario_of(
        forgotten={each.label for each in classes if each.samples},
        kept={each.label for each in classes if each.samples < each.of},
        has_retain=policy["retain_data"] != "gone",
    )
    methods = ladder_of(policy, scenario).methods if order.method == AUTO else (order.method,)
    methods = tuple(name for name in methods if name in METHODS)  # an unknown one is among the faults
    reasons = shares.above_bounds(
        session, [model], purpose=order.purpose, above_share=secrets.approval_above_share, classes=asked
    )
    lacks = fan_out.lacks(session, order.method, methods, model.model, version, purpose=order.purpose)
    return {
        "model": model.model.name,
        "versions": [each.number for each, _ in model.known],
        "parent": version.number,
        "samples": len(known),
        "training_samples": version.training_samples,
        "share": shares.of_training_set(model),
        "classes": [
            {"label": each.label, "samples": each.samples, "of": each.of, "share": each.share} for each in classes
        ]
        if order.may_read_datasets
        else None,
        "scenario": scenario,
        "methods": [{"method": name, "lacks": lack} for name, lack in lacks.items()],
        "stops_serving": policy["stop_serving"],
        "approval_reasons": reasons.get(model.model.name, []),
        "forecast": _forecast(session, model, order.method),
    }


def _forecast(session: Session, model: Concerned, method: str) -> dict[str, Any]:
    past = queue_forecast.past(session, {model.model.id})
    seconds = past.get((JobKind.ERASE, model.model.id, method)) or past.get((JobKind.ERASE, model.model.id, None))
    if seconds:
        return {"seconds": median(seconds), "basis": "past_jobs", "jobs": len(seconds)}
    training = model.known[-1][0].training_seconds
    return {"seconds": training, "basis": "none" if training is None else "training"}
