"""Turns an erasure job into an order for the child: which samples to forget, by which method, held to which bar."""

from dataclasses import asdict, replace
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.catalogue.methods import METHODS, Purpose
from service.catalogue.tasks import Task
from service.lifecycle import SampleState
from service.store import (
    controls,
    preparations,
    readable,
    references,
    requests,
    retention,
    retrained,
    samples,
    versions,
)
from service.store.tables import Dataset, Job, Model, Sample, Version, VersionExclusion
from workers import erasure_situation
from workers.ladder import Rung, Situation, is_exact, next_rung, small_set_rule
from workers.order_parts import Place, Prepared, on_model


class NoMethodLeft(Exception):
    """No method of the ladder can work on the model; the message says why."""


def prepare(session: Session, job: Job, dataset: Dataset, place: Place) -> Prepared:
    """Read everything the child needs. Raises NoMethodLeft."""
    named = requests.sample_keys_of_job(session, job.id)
    keys = sorted({key for group in named.values() for key in group})
    found = versions.newest_trained_on(session, str(job.model_id), keys)
    if found is None:
        return Prepared(order=None)
    parent, known = found
    excluded = select(VersionExclusion.sample_id).where(VersionExclusion.version_id == parent.id)
    for_it = readable.by(session, session.get_one(Model, job.model_id)).label("readable")
    rows = session.execute(
        select(Sample.id, Sample.position, Sample.state, Sample.label, for_it).where(
            Sample.dataset_id == dataset.id, Sample.pool == "train", Sample.id.not_in(excluded)
        )
    ).all()
    forget_keys = [key for key, _ in known]
    vanished = {row.id for row in rows if row.state == SampleState.VANISHED}
    known = _readable(known, vanished)
    forget = {position for _, position in known}
    kept = [row for row in rows if row.readable and row.position not in forget]
    # Samples of other open requests are not trained on any more, but only retraining makes the model forget them.
    named_keys = set(forget_keys)
    withheld = [row.id for row in rows if not row.readable and row.id not in named_keys]
    order = on_model(session, job, dataset, place)
    inputs = _erase_inputs(session, dataset, dict(known), named)
    labels = {row.label for row in rows if row.position in forget}, {row.label for row in kept}
    situation = erasure_situation.of(
        session, job, parent, forget_count=controls.pairs(session, dataset.id, [key for key, _ in known]), labels=labels
    )
    if len(known) < len(forget_keys):
        situation = replace(situation, skipped=_not_for_vanished(len(forget_keys) - len(known)))
    approved = bool(job.approved_by and job.candidate_sha256 and job.parent_id == parent.id)
    if approved:
        rung = Rung(method=job.rung, reason=f"approved by {job.approved_by}", passed_over={})
    else:
        rung = next_rung(situation)
    if rung.method is None:
        reasons = [f"{method}: {why}" for method, why in rung.passed_over.items()]
        raise NoMethodLeft("; ".join([rung.reason, *reasons]))
    order |= inputs | _method(job, rung.method, situation) | {"bar": _bar(session, job, situation)}
    if not is_exact(rung.method):
        order |= _retrained(session, job, [row.id for row in kept], place)
    file = references.of_model(session, str(job.model_id))
    if file is not None:
        order["references"] = place.references(file)
    if situation.task == Task.GENERATION and place.settings.inception_weights is not None:
        order["inception"] = str(place.settings.inception_weights.resolve())
    if not situation.has_retain:
        order["retained_labels"] = sorted({row.label for row in kept})
    train = sorted(forget | {row.position for row in kept if situation.has_retain})
    index = {position: i for i, position in enumerate(train)}
    order |= {
        "train": train,
        "forget_index": [index[position] for _, position in known],
        "weights": place.weights(parent),
        "sha256": parent.sha256,
        "training_seconds": parent.training_seconds,
        "earlier": _earlier(session, job),
        "prepared": _prepared(session, parent, rung.method, place),
    }
    return Prepared(
        order=order,
        parent_id=parent.id,
        forget_keys=forget_keys,
        # what is withheld now may have been trained on by a candidate made before
        excluded_keys=forget_keys + (withheld if is_exact(rung.method) and not approved else []),
        situation=situation,
        rung=rung,
    )


def _readable(known: list[tuple[int, int]], vanished: set[int]) -> list[tuple[int, int]]:
    """Return what of a forget set the source still has. Raises NoMethodLeft if that is nothing."""
    found = [(key, position) for key, position in known if key not in vanished]
    if not found:
        raise NoMethodLeft(
            "None of the samples is in the source any more, so nothing can be measured on them. Put them back, "
            "re-index the dataset and retry the job; they leave it for good when the request is completed."
        )
    return found


def _not_for_vanished(count: int) -> dict[str, str]:
    why = f"{count} of the samples left the source, and only an exact method forgets what it cannot read"
    return {name: why for name in METHODS if not is_exact(name)}


def _prepared(session: Session, parent: Version, method: str, place: Place) -> dict[str, Any]:
    """Return what was prepared of the parent and the method uses, by name."""
    used = [file for file in preparations.of_version(session, parent.id) if file.name in METHODS[method].uses]
    return {file.name: {**place.prepared(file), "samples": file.samples, "seconds": file.seconds} for file in used}


def _retrained(session: Session, job: Job, retained: list[int], place: Place) -> dict[str, Any]:
    version = retrained.newest(session, session.get_one(Model, job.model_id), retained)
    if version is None:
        return {}
    return {"retrained": {"weights": place.weights(version, name="retrained"), "sha256": version.sha256}}


def _earlier(session: Session, job: Job) -> list[dict[str, Any]]:
    found = retention.earlier_forget_sets(session, session.get_one(Model, job.model_id), but=job)
    return [asdict(each) for each in found]


def _bar(session: Session, job: Job, situation: Situation) -> dict[str, Any]:
    policy = erasure_situation.held_to(session, job)
    return {
        "bounds": policy["bounds"],
        # The policy speaks of percentage points, the methods of shares.
        "max_accuracy_drop": float(policy["max_accuracy_drop"]) / 100,
        "disclose_small": small_set_rule(situation) != "exact",
    }


def _method(job: Job, method: str, situation: Situation) -> dict[str, Any]:
    """Return the method with its options: those that were given belong to the method that was asked for."""
    given = dict(job.method_options or {})
    seed = given.get("seed")
    chosen = {**situation.options.get(method, {}), "seed": seed}
    own = given if method == job.method else METHODS[method].options_for(cast("Purpose", job.purpose), chosen)
    return {"method": method, "config": own, "seed": job.seed if seed is None else seed}


def _erase_inputs(
    session: Session, dataset: Dataset, known: dict[int, int], named: dict[str, list[int]]
) -> dict[str, Any]:
    pools = samples.positions(session, dataset.id)
    place_of = {key: i for i, key in enumerate(known)}
    return {
        "selection": pools.get("selection", []),
        "audit": pools.get("audit", []),
        "population": pools.get("population", []),
        "test": sorted(pools.get("audit", []) + pools.get("population", [])),
        "groups": {name: sorted(place_of[key] for key in group if key in place_of) for name, group in named.items()},
    }
