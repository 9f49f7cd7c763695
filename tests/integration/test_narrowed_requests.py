"""What a request takes away from some models stays with the others, on both databases."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from service.errors import InvalidRequest
from service.lifecycle import JobKind, JobStatus, SampleState
from service.store import intake, jobs, models, preparations, training_checkpoints, versions
from service.store.intake import Secrets
from service.store.tables import Job, Model, Sample
from tests import factories
from workers import orders
from workers.bench import Bench
from workers.order_parts import Place, Prepared

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC", approval_above_share=1.0)
TRAIN, CLASSES = 40, 4
THREES = [f"train-{i}" for i in range(TRAIN) if i % CLASSES == 3]
MINE = ["train-0", "train-3", "train-5"]


@pytest.fixture
def name(bench: Bench) -> str:
    """Name a dataset and two models of the test's own, which know all of it: ``<name>-a`` and ``<name>-b``."""
    found = f"n{secrets.token_hex(4)}"
    factories.dataset(bench, found, train=TRAIN, classes=CLASSES)
    for model in ("a", "b"):
        factories.model(bench, f"{found}-{model}", of=found)
        factories.version(bench, f"{found}-{model}")
    return found


def _ask(bench: Bench, name: str, named: Sequence[str], *, of: Sequence[str] | None, **changes: Any) -> str:
    narrowed = None if of is None else [f"{name}-{model}" for model in of]
    with bench.database.writing() as session:
        return intake.accept(session, factories.order(name, *named, models=narrowed, **changes), SECRETS).request.id


def _model(bench: Bench, name: str, model: str) -> Model:
    with bench.database.reading() as session:
        return models.by_name(session, f"{name}-{model}")


def _prepared(bench: Bench, name: str, model: str, folder: Path, *, kind: JobKind = JobKind.ERASE) -> Prepared:
    place = Place(settings=bench.settings, artifacts=bench.artifacts, out=folder)
    with bench.database.reading() as session:
        job = session.scalars(
            select(Job)
            .where(Job.model_id == _model(bench, name, model).id, Job.kind == kind, Job.status == JobStatus.QUEUED)
            .order_by(Job.id)
        ).first()
        assert job is not None
        return orders.prepare(session, job, place)


def _positions(bench: Bench, name: str, named: Sequence[str]) -> set[int]:
    ids = [f"{name}-{each}" for each in named]
    with bench.database.reading() as session:
        return set(session.scalars(select(Sample.position).where(Sample.sample_id.in_(ids))))


def _everyone() -> list[str]:
    return [f"train-{i}" for i in range(TRAIN)]


@pytest.mark.parametrize("method", ["finetune", "retrain"])
def test_a_class_taken_from_one_model_is_trained_on_and_kept_by_the_other(
    bench: Bench, name: str, method: str, tmp_path: Path
) -> None:
    _ask(bench, name, THREES, of=["a"])
    _ask(bench, name, MINE, of=["b"], method=method)
    found = _prepared(bench, name, "b", tmp_path)
    assert found.order is not None
    train = found.order["train"]
    assert {train[i] for i in found.order["forget_index"]} == _positions(bench, name, MINE)
    assert set(train) == _positions(bench, name, _everyone())
    assert len(found.excluded_keys) == len(MINE)


def test_what_is_asked_of_every_model_or_of_this_one_too_is_withheld(bench: Bench, name: str, tmp_path: Path) -> None:
    _ask(bench, name, MINE, of=["b"], method="retrain")
    _ask(bench, name, ["train-7"], of=None)  # of everyone
    _ask(bench, name, ["train-9", "train-11"], of=["a"])
    _ask(bench, name, ["train-9"], of=["a", "b"], method="neggrad_plus")  # one of them of both
    found = _prepared(bench, name, "b", tmp_path)
    assert found.order is not None
    withheld = _positions(bench, name, ["train-7", "train-9"])
    assert set(found.order["train"]) == _positions(bench, name, _everyone()) - withheld
    assert len(found.excluded_keys) == len(MINE) + len(withheld)


def test_a_new_training_reads_what_others_are_to_forget(bench: Bench, name: str, tmp_path: Path) -> None:
    factories.model(bench, f"{name}-c", of=name)
    with bench.database.writing() as session:
        row = models.by_name(session, f"{name}-c")
        jobs.create(session, JobKind.TRAIN, dataset_id=row.dataset_id, model_id=row.id)
    _ask(bench, name, THREES, of=["a"])
    _ask(bench, name, ["train-1"], of=None)
    found = _prepared(bench, name, "c", tmp_path, kind=JobKind.TRAIN)
    assert found.order is not None
    assert set(found.order["train"]) == _positions(bench, name, _everyone()) - _positions(bench, name, ["train-1"])
    assert len(found.excluded_keys) == 1


def test_a_training_that_is_under_way_goes_on_past_a_request_to_another_model(bench: Bench, name: str) -> None:
    _ask(bench, name, MINE, of=["b"], method="retrain")
    with bench.database.reading() as session:
        job = session.scalars(select(Job).where(Job.model_id == _model(bench, name, "b").id)).one()
        known = training_checkpoints.readable(session, job)
    _ask(bench, name, THREES[1:], of=["a"])
    with bench.database.reading() as session:
        assert not training_checkpoints.lost_any(session, job, known)
        assert training_checkpoints.readable(session, job) == known
    _ask(bench, name, ["train-2"], of=None)
    with bench.database.reading() as session:
        assert training_checkpoints.lost_any(session, job, known)


def test_a_version_may_be_prepared_though_another_model_is_to_forget(bench: Bench, name: str) -> None:
    def waits(model: str) -> bool:
        with bench.database.reading() as session:
            row = models.by_name(session, f"{name}-{model}")
            return preparations.requests_open(session, row, versions.live(session, row.id)[-1])

    _ask(bench, name, THREES, of=["a"])
    assert (waits("a"), waits("b")) == (True, False)


def test_no_request_is_refused_for_what_only_other_models_are_to_forget(bench: Bench, name: str) -> None:
    others = [each for each in _everyone() if each not in MINE]
    _ask(bench, name, others, of=["a"])
    _ask(bench, name, MINE, of=["b"])
    with pytest.raises(InvalidRequest) as refused:
        _ask(bench, name, others, of=["b"])
    assert {fault.code for fault in refused.value.faults} == {"forget_set_is_whole_training_set"}


def test_a_class_is_left_where_only_other_models_are_to_forget_the_rest_of_it(bench: Bench, name: str) -> None:
    fields = {"architecture": "ddpm_unet_small", "architecture_options": {"class_condition": False}}
    factories.model(bench, f"{name}-u", of=name, task="generation", **fields)
    factories.version(bench, f"{name}-u")
    _ask(bench, name, THREES[1:], of=["a"])
    _ask(bench, name, THREES[:1], of=["u"])
    with pytest.raises(InvalidRequest):  # which says that such a model cannot be asked for a class
        _ask(bench, name, THREES, of=["u"])


def test_a_sample_that_nobody_names_any_more_is_not_read(bench: Bench, name: str, tmp_path: Path) -> None:
    """A row left pending by a fault is on nobody's word: it is not trained on."""
    _ask(bench, name, THREES, of=["a"])
    _ask(bench, name, MINE, of=["b"])
    with bench.database.writing() as session:
        session.execute(update(Sample).where(Sample.sample_id == f"{name}-train-13").values(state=SampleState.PENDING))
    found = _prepared(bench, name, "b", tmp_path)
    assert found.order is not None
    assert _positions(bench, name, ["train-13"]).isdisjoint(found.order["train"])
