"""Which models know some samples, what stands in the way of making them forget, and the jobs that do it.

Each question is asked once for all models together where it can be: intake waits for every statement.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, cast

from sqlalchemy import BigInteger, Select, bindparam, exists, select
from sqlalchemy.orm import Session

from service.catalogue.ladders import ladder_of
from service.catalogue.methods import AUTO, METHODS, Available, Purpose
from service.catalogue.policy import frozen
from service.catalogue.tasks import Task
from service.errors import Fault
from service.evidence.leaf import canonical
from service.lifecycle import JobKind, SampleState, VersionState
from service.store import gathering, jobs, preparations, readable, requests, samples, task_fit, versions
from service.store.tables import DeletionRequest, Job, Model, Sample, Version, VersionExclusion, table_of

_SAMPLE = table_of(Sample).c
# Jobs by model and policy digest.
Joinable = Mapping[tuple[str, str], Job]


@dataclass(frozen=True, kw_only=True)
class Concerned:
    """A model, and those of its live versions that were trained on some of the samples, oldest first."""

    model: Model
    known: list[tuple[Version, frozenset[int]]]

    @property
    def keys(self) -> frozenset[int]:
        return frozenset().union(*(keys for _, keys in self.known))


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A job that now works for a request. ``new``: nobody has rung for it yet."""

    job: Job
    model: str
    new: bool


@dataclass(frozen=True, kw_only=True)
class FrozenPolicy:
    """A model's policy for one purpose, written out in full, and the digest that enters the log."""

    policy: dict[str, Any]
    digest: str


def frozen_policy(model: Model, purpose: str) -> FrozenPolicy:
    """Return what an acceptance freezes: the bar cannot move after it."""
    return _frozen(json.dumps(model.policy, sort_keys=True), purpose, model.task)


@lru_cache(maxsize=1024)
def _frozen(policy: str, purpose: str, task: str) -> FrozenPolicy:
    written = frozen(json.loads(policy), cast("Purpose", purpose), Task(task))
    return FrozenPolicy(policy=written, digest=hashlib.sha256(canonical(written)).hexdigest())


def concerned(session: Session, targets: Sequence[tuple[Model, list[Version]]], keys: Sequence[int]) -> list[Concerned]:
    """Return the models that know any of the samples, which are of the train pool.

    ``targets``: models with their live versions.
    """
    live = [version.id for _, found in targets for version in found]
    if not live or not keys:
        return []
    return known_by(targets, frozenset(keys), versions.exclusions(session, live, keys))


def known_by(
    targets: Sequence[tuple[Model, list[Version]]], trained: frozenset[int], excluded: Mapping[str, frozenset[int]]
) -> list[Concerned]:
    """Return the models that know any of the samples. ``excluded``: which of them each version was not trained on."""
    found = []
    for model, candidates in targets:
        known = [(version, trained - excluded.get(version.id, frozenset())) for version in candidates]
        if any(keys for _, keys in known):
            found.append(Concerned(model=model, known=[pair for pair in known if pair[1]]))
    return found


def unmet(session: Session, method: str, model: Concerned, keys: Sequence[int], *, purpose: str) -> list[Fault]:
    """Return why the method cannot remove the samples from the model: nothing, where it can."""
    methods = _ladder(model.model, purpose) if method == AUTO else (method,)
    version, known = model.known[-1]
    faults = task_fit.purpose_faults(model.model, purpose)
    if not (faults and method == AUTO):  # what `auto` comes to follows from the purpose
        faults += _lacks(session, method, methods, model.model, version, purpose)
    asked = {"dataset": model.model.dataset_id, "version": version.id, "listed": samples.packed(session, keys)}
    dialect = samples.dialect_of(session)
    if session.scalar(_any_left(dialect), asked) is None and not _classes_left_to(session, model.model, version, keys):
        reason = f"Nothing of model {model.model.name!r}'s training set would be left; delete the model instead."
        faults.append(Fault("/sample_ids", "forget_set_is_whole_training_set", len(known), reason))
    elif methods and all(METHODS[name].needs_in_class_retain for name in methods):
        emptied = _emptied(session, model.model, version, known, keys, asked)
        faults += [Fault("/sample_ids", "class_left_without_samples", label) for label in emptied]
    elif not task_fit.told_the_class(model.model):
        emptied = _emptied(session, model.model, version, known, keys, asked)
        faults += [task_fit.no_class_condition(model.model, len(emptied))] if emptied else []
    return faults


def _ladder(model: Model, purpose: str) -> tuple[str, ...]:
    """Return what `auto` may come to; classes and subsets end alike."""
    gone = model.policy.get("retain_data") == "gone"
    return ladder_of(frozen_policy(model, purpose).policy, "retain_gone" if gone else "subset").methods


def _lacks(
    session: Session, asked: str, methods: Sequence[str], model: Model, version: Version, purpose: str
) -> list[Fault]:
    """Return one fault where none of the methods has what it needs, with what each lacks and which ones would do."""
    there = _available(session, model)
    if not all(_lack(asked, name, there, purpose) for name in methods):
        return []
    # asked only where it can matter: intake waits for every statement
    there = replace(there, prepared=preparations.names_of(session, version.id))
    lacks = {name: _lack(asked, name, there, purpose) for name in methods}
    if not all(lacks.values()):
        return []
    told = "; ".join(f"{name}: {why}" for name, why in lacks.items()) or "its ladder has no method for this purpose"
    able = sorted(n for n, spec in METHODS.items() if spec.lack(there) is None)
    reason = f"{asked!r} cannot be used on model {model.name!r} ({told}). {_instead(able)}"
    if task_fit.is_for_others(asked, model):
        return [Fault("/method", "method_not_for_task", asked, f"{reason} {task_fit.BY_TASK}")]
    return [Fault("/method", "method_needs_not_met", asked, reason)]


def _available(session: Session, model: Model) -> Available:
    """Return what a model brings for any of its versions."""
    return Available(
        task=Task(model.task),
        no_other_class=task_fit.why_no_other_class(session, model),
        recipe=model.recipe is not None,
        sharded=bool((model.recipe or {}).get("sisa")),
        retain=model.policy.get("retain_data") != "gone",
    )


def lacks(
    session: Session, asked: str, methods: Sequence[str], model: Model, version: Version, *, purpose: str
) -> dict[str, str | None]:
    """Return what each of the methods lacks on this version; None for one that can be used."""
    there = replace(_available(session, model), prepared=preparations.names_of(session, version.id))
    return {name: _lack(asked, name, there, purpose) for name in methods}


def _lack(asked: str, name: str, there: Available, purpose: str) -> str | None:
    """Return what the method lacks. One asked for by name serves a purpose it is not listed for."""
    if (lack := METHODS[name].lack(there)) is not None:
        return lack
    serves = asked != AUTO or purpose in METHODS[name].purposes
    return None if serves else f"it does not serve the purpose {purpose}"


def _instead(able: Sequence[str]) -> str:
    """Say what to do."""
    return f"Ask for one that can: {', '.join(able)}." if able else "No method can; train a new version."


def _left(dialect: str, column: Any) -> Select[int]:
    """Select from the samples that the version was trained on and neither these keys nor any request names."""
    exclusion = table_of(VersionExclusion).c
    excluded = exists().where(exclusion.version_id == bindparam("version"), exclusion.sample_id == _SAMPLE.id)
    return select(column).where(
        _SAMPLE.dataset_id == bindparam("dataset"),
        _SAMPLE.pool == "train",
        _SAMPLE.state == SampleState.LIVE,
        ~samples.among(dialect, _SAMPLE.id, BigInteger),
        ~excluded,
    )


def _emptied(
    session: Session,
    model: Model,
    version: Version,
    known: Iterable[int],
    keys: Sequence[int],
    asked: Mapping[str, Any],
) -> list[int]:
    """Return the classes of what the version knows of which it would keep nothing."""
    labels = samples.labels(session, sorted(known))
    lost = labels - set(session.scalars(_classes_left(samples.dialect_of(session)), asked))
    return sorted(lost - _classes_left_to(session, model, version, keys)) if lost else []


def _classes_left_to(session: Session, model: Model, version: Version, keys: Sequence[int]) -> set[int]:
    """Return the classes that the model would keep, counting what requests take away from other models alone.

    Asked only where live samples leave something in want: it takes two statements more.
    """
    excluded = exists().where(VersionExclusion.version_id == version.id, VersionExclusion.sample_id == Sample.id)
    query = select(Sample.label).where(
        Sample.dataset_id == model.dataset_id,
        Sample.pool == "train",
        readable.by(session, model),
        ~samples.one_of(session, Sample.id, keys),
        ~excluded,
    )
    return set(session.scalars(query.distinct()))


@cache
def _any_left(dialect: str) -> Select[int]:
    return _left(dialect, _SAMPLE.id).limit(1)


@cache
def _classes_left(dialect: str) -> Select[int]:
    return _left(dialect, _SAMPLE.label).distinct()


def joinable(session: Session, request: DeletionRequest, found: Sequence[Concerned]) -> Joinable:
    """Return the queued jobs that the request may join."""
    return gathering.queued(session, request, [each.model.id for each in found]) if found else {}


def queue(session: Session, request: DeletionRequest, found: Sequence[Concerned], joinable: Joinable) -> list[Queued]:
    """Queue, or join, one job for each model; withhold versions whose policy stops serving at once."""
    queued = []
    for each in found:
        withhold(session, request, each)
        held_to = frozen_policy(each.model, request.purpose)
        joined = joinable.get((each.model.id, held_to.digest))
        if joined is not None:
            version, known = each.known[-1]
            gathering.join(session, joined, request, policy=held_to.policy, version=version, known=known)
        job = joined or _create(session, request, each, held_to)
        queued.append(Queued(job=job, model=each.model.name, new=joined is None))
    return queued


def _create(session: Session, request: DeletionRequest, model: Concerned, held_to: FrozenPolicy) -> Job:
    job = jobs.create(
        session,
        JobKind.ERASE,
        dataset_id=model.model.dataset_id,
        model_id=model.model.id,
        purpose=request.purpose,
        method=request.method,
        method_options=request.method_options,
        policy=held_to.policy,
        policy_digest=held_to.digest,
        request=request,
    )
    job.not_before = gathering.wait_until(session, request, held_to.policy, *model.known[-1])
    return job


def withhold(session: Session, request: DeletionRequest, model: Concerned) -> None:
    """Quarantine the versions that know the samples: where the policy stops serving at once, or past the due date."""
    if not requests.stops_serving(request, model.model):
        return
    reason = "due_date_missed" if requests.is_overdue(request) else "deletion_request"
    for version, _ in model.known:
        if version.state == VersionState.ACTIVE:
            versions.move(session, version, VersionState.QUARANTINED, reason=reason, request=request.id)


def withhold_all(session: Session, request: DeletionRequest) -> None:
    """Quarantine the versions of every model that know the samples, where the request stops serving."""
    keys = requests.sample_keys(session, [request.id])[request.id]
    registered = versions.live_of_dataset(session, request.dataset_id)
    targets = [pair for pair in registered if request.models is None or pair[0].name in request.models]
    for each in concerned(session, targets, samples.of_train_pool(session, keys)):
        withhold(session, request, each)
