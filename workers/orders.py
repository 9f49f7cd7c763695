"""Turns a claimed job into an order for the child: positions and paths, never a sample ID or a session."""

from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.artifacts import ArtifactStore
from service.catalogue.ladders import ladder_of, scenario_of
from service.catalogue.methods import METHODS, Purpose
from service.catalogue.policy import frozen, tests_membership
from service.catalogue.tasks import Task
from service.evidence.commitments import derive
from service.lifecycle import JobKind, SampleState
from service.settings import Settings
from service.store import (
    controls,
    models,
    preparations,
    references,
    reindexing,
    requests,
    retention,
    retrained,
    samples,
    task_fit,
    versions,
)
from service.store.tables import Dataset, Job, Model, PreparedFile, ReferenceFile, Sample, Version, VersionExclusion
from service.store.types import now
from workers.ladder import Rung, Situation, is_exact, next_rung, small_set_rule


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker finds and leaves files."""

    settings: Settings
    artifacts: ArtifactStore
    out: Path

    def weights(self, version: Version, *, name: str = "parent") -> str:
        """Return a local path of the version's weights, fetching them, as `name`, if the store is elsewhere."""
        local = self.artifacts.local_path(version.sha256)
        if local is None:
            local = self.out / f"{name}.safetensors"
            self.artifacts.fetch(version.sha256, local)
        return str(local)

    @property
    def roots(self) -> list[str]:
        return [str(root) for root in self.settings.roots]

    def references(self, file: ReferenceFile) -> dict[str, str]:
        """Return path and digest of a model's reference logits, fetching them if the store is elsewhere."""
        local = self.artifacts.local_path(file.sha256)
        if local is None:
            local = self.out / "references.safetensors"
            self.artifacts.fetch(file.sha256, local)
        return {"path": str(local), "sha256": file.sha256}

    def prepared(self, file: PreparedFile) -> dict[str, str]:
        """Return path and digest of what was prepared of a version, fetching it if the store is elsewhere."""
        local = self.artifacts.local_path(file.sha256)
        if local is None:
            local = self.out / f"{file.name}.safetensors"
            self.artifacts.fetch(file.sha256, local)
        return {"path": str(local), "sha256": file.sha256}

    def cache(self, dataset: Dataset) -> str:
        return str((self.settings.data_dir / "cache" / dataset.id).resolve())


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An order and what its publication will need to know; no order means there is nothing left to do.

    ``as_of``: when the positions were read that a trim removes.
    """

    order: dict[str, Any] | None
    parent_id: str | None = None
    forget_keys: list[int] = field(default_factory=list)
    excluded_keys: list[int] = field(default_factory=list)
    situation: Situation | None = None
    rung: Rung | None = None
    as_of: datetime | None = None

    @property
    def rung_name(self) -> str | None:
        """Return the method that is tried, for an erasure."""
        return None if self.rung is None else self.rung.method

    @property
    def tried(self) -> Situation:
        """Return the situation once this order's method was tried."""
        if self.situation is None or self.rung is None or self.rung.method is None:
            raise ValueError("only an erasure climbs a ladder")
        return replace(self.situation, tried=(*self.situation.tried, self.rung.method))


class NoMethodLeft(Exception):
    """No method of the ladder can work on the model; the message says why."""


def prepare(session: Session, job: Job, place: Place) -> Prepared:
    """Read everything the child needs."""
    dataset = session.get_one(Dataset, job.dataset_id)
    match JobKind(job.kind):
        case JobKind.INDEX:
            return Prepared(order=_index(dataset, place))
        case JobKind.REINDEX:
            return Prepared(order={**_index(dataset, place), "cache": None})
        case JobKind.TRAIN | JobKind.PREPARE if models.retain_data_gone(session, session.get_one(Model, job.model_id)):
            # asked for while the data could still be read
            return Prepared(order=None)
        case JobKind.TRAIN:
            return _train(session, job, dataset, place)
        case JobKind.VALIDATE:
            return Prepared(order=_validate(session, job, dataset, place))
        case JobKind.ERASE:
            return _erase(session, job, dataset, place)
        case JobKind.PREPARE:
            return Prepared(order=_prepare(session, job, dataset, place))
        case JobKind.TRIM:
            return _trim(session, job, place)
        case JobKind.PREPARE_VERSION:
            return Prepared(order=_prepare_version(session, job, dataset, place))


def _index(dataset: Dataset, place: Place) -> dict[str, Any]:
    key = derive(place.settings.master_key_bytes, f"pools {dataset.name}")
    return {
        "kind": "index",
        "source": dataset.source,
        "roots": place.roots,
        "pool_key": key.hex(),
        "cache": place.cache(dataset),
        "out": str(place.out),
    }


def _base(session: Session, job: Job, dataset: Dataset, place: Place) -> dict[str, Any]:
    model = session.get_one(Model, job.model_id)
    return {
        "kind": job.kind,
        "device": place.settings.device,
        "out": str(place.out),
        "spec": {
            "architecture": model.architecture,
            "options": model.architecture_options,
            "image_shape": dataset.image_shape,
            "num_classes": dataset.num_classes,
            "recipe": model.recipe,
        },
        "dataset": {
            "source": dataset.source,
            "roots": place.roots,
            "digest": dataset.digest,
            "cache": place.cache(dataset),
            "places": reindexing.places(session, dataset),
            "erased": retention.gone_positions(session, dataset.id, days=retention.longest(session, dataset.id)),
        },
    }


def _train(session: Session, job: Job, dataset: Dataset, place: Place) -> Prepared:
    # What the model's earlier versions had to forget stays forgotten, also where the id itself lives on.
    forgotten = (
        select(VersionExclusion.sample_id)
        .join(Version, Version.id == VersionExclusion.version_id)
        .where(Version.model_id == job.model_id, VersionExclusion.cause == versions.FORGOTTEN)
    )
    pool = (Sample.dataset_id == dataset.id, Sample.pool == "train")
    kept = (Sample.state == SampleState.LIVE) & Sample.id.not_in(forgotten)
    train = session.scalars(select(Sample.position).where(*pool, kept).order_by(Sample.position))
    excluded = session.scalars(select(Sample.id).where(*pool, ~kept))
    order = {**_base(session, job, dataset, place), "train": list(train)}
    return Prepared(order=order, excluded_keys=list(excluded))


def _validate(session: Session, job: Job, dataset: Dataset, place: Place) -> dict[str, Any]:
    version = session.get_one(Version, job.version_id)
    base = _base(session, job, dataset, place)
    return {**base, "weights": place.weights(version), "sha256": version.sha256}


def _prepare(session: Session, job: Job, dataset: Dataset, place: Place) -> dict[str, Any]:
    pools = samples.positions(session, dataset.id)
    model = session.get_one(Model, job.model_id)
    return {
        **_base(session, job, dataset, place),
        "pool": sorted(pools.get("train", []) + pools.get("audit", [])),
        "population": pools.get("population", []),
        "models": model.policy.get("reference_models", 8),
        "seed": job.seed,
    }


def _prepare_version(session: Session, job: Job, dataset: Dataset, place: Place) -> dict[str, Any] | None:
    version, model = session.get_one(Version, job.version_id), session.get_one(Model, job.model_id)
    if not preparations.can_be_prepared(session, model, version):
        return None
    excluded = select(VersionExclusion.sample_id).where(VersionExclusion.version_id == version.id)
    pool = (Sample.dataset_id == dataset.id, Sample.pool == "train", Sample.id.not_in(excluded))
    return {
        **_base(session, job, dataset, place),
        "prepare": (job.method_options or {})["prepare"],
        "train": list(session.scalars(select(Sample.position).where(*pool).order_by(Sample.position))),
        "weights": place.weights(version),
        "sha256": version.sha256,
    }


def _trim(session: Session, job: Job, place: Place) -> Prepared:
    model = session.get_one(Model, job.model_id)
    file = references.of_model(session, model.id)
    if file is None:
        return Prepared(order=None)
    # The time comes first: what may no longer be read by the end of the job is left to the next one.
    as_of = now()
    gone = retention.gone_positions(session, model.dataset_id, days=retention.days_of(model), at=as_of)
    order = {"kind": job.kind, "out": str(place.out), "positions": gone, "references": place.references(file)}
    return Prepared(order=order, as_of=as_of)


def _erase(session: Session, job: Job, dataset: Dataset, place: Place) -> Prepared:
    named = requests.sample_keys_of_job(session, job.id)
    keys = sorted({key for group in named.values() for key in group})
    found = versions.newest_trained_on(session, str(job.model_id), keys)
    if found is None:
        return Prepared(order=None)
    parent, known = found
    excluded = select(VersionExclusion.sample_id).where(VersionExclusion.version_id == parent.id)
    rows = session.execute(
        select(Sample.id, Sample.position, Sample.state, Sample.label).where(
            Sample.dataset_id == dataset.id, Sample.pool == "train", Sample.id.not_in(excluded)
        )
    ).all()
    forget_keys = [key for key, _ in known]
    vanished = {row.id for row in rows if row.state == SampleState.VANISHED}
    known = _readable(known, vanished)
    forget = {position for _, position in known}
    kept = [row for row in rows if row.state == SampleState.LIVE and row.position not in forget]
    # Samples of other open requests are not trained on any more, but only retraining makes the model forget them.
    named_keys = set(forget_keys)
    withheld = [row.id for row in rows if row.state != SampleState.LIVE and row.id not in named_keys]
    order = _base(session, job, dataset, place)
    inputs = _erase_inputs(session, dataset, dict(known), named)
    labels = {row.label for row in rows if row.position in forget}, {row.label for row in kept}
    situation = _situation(
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


def _situation(
    session: Session, job: Job, parent: Version, *, forget_count: int, labels: tuple[set[int], set[int]]
) -> Situation:
    model, policy = session.get_one(Model, job.model_id), held_to(session, job)
    # what was frozen before there was a choice had the data; data that has gone since is gone all the same
    has_retain = "gone" not in (policy.get("retain_data"), model.policy.get("retain_data"))
    ladder = ladder_of(policy, scenario_of(forgotten=labels[0], kept=labels[1], has_retain=has_retain))
    return Situation(
        requested=str(job.method),
        ladder=ladder.methods,
        options=ladder.options,
        purpose=str(job.purpose),
        task=Task(model.task),
        class_condition=task_fit.told_the_class(model),
        small_sets=policy["small_sets"],
        # An approval whose candidate is out of date begins anew.
        tried=() if job.approved_by else tuple(x["method"] for x in job.rungs if not x.get("before_retry")),
        forget_count=forget_count,
        retraining_seconds=parent.training_seconds,
        retraining_budget_seconds=policy["retraining_budget_seconds"],
        seconds_left=(job.due_at - now()).total_seconds() if job.due_at else None,
        surest_within_seconds=policy["surest_within_hours"] * 3600,
        tests_membership=tests_membership(policy),
        has_recipe=model.recipe is not None,
        has_retain=has_retain,
        has_selection=samples.any_left_in(session, job.dataset_id, "selection"),
        prepared=preparations.names_of(session, parent.id),
        sharded=bool((model.recipe or {}).get("sisa")),
    )


def held_to(session: Session, job: Job) -> dict[str, Any]:
    """Return the policy that was frozen when the job was queued."""
    if job.policy is not None:
        return job.policy
    model = session.get_one(Model, job.model_id)
    return frozen(model.policy, cast("Purpose", job.purpose), Task(model.task))


def _bar(session: Session, job: Job, situation: Situation) -> dict[str, Any]:
    policy = held_to(session, job)
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
