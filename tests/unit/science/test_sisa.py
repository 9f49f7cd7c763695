"""SISA: unlearning equals training in shards on the retain set, bit for bit, and reads no forgotten sample."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.catalogue.methods import METHODS as CATALOGUE
from service.catalogue.methods import RetrainConfig, SisaConfig
from service.catalogue.recipe import Recipe, Sharding
from tests.method_cases import equal, samples, with_other_images
from workers.architectures.ensemble import members
from workers.classification import Classification
from workers.evaluation.relearning_curve import RelearningProfile
from workers.evaluation.report import EvaluationSplits
from workers.pipeline import ModelSpec, Trained, build_model, erase, train_original
from workers.reproducibility import derived_seed, generator_for
from workers.samples import LabelledSet
from workers.sharded_training import epochs_per_stage
from workers.sharding import places_of
from workers.training import NonFiniteLossError
from workers.unlearning import METHODS, shards
from workers.unlearning.interface import (
    DivergedError,
    RetainSetGoneError,
    Surroundings,
    UnlearningError,
    UnlearningResult,
    UnlearningSplits,
)
from workers.unlearning.retrain import retrain
from workers.unlearning.sisa import sisa

SHARDING = Sharding(shards=3, slices=3)
SPEC = ModelSpec(
    architecture="small_cnn",
    options={"width": 4},
    image_shape=(1, 8, 8),
    num_classes=3,
    recipe=Recipe(epochs=4, batch_size=8, lr=0.05, seed=5, sisa=SHARDING),
)
VIT = replace(SPEC, architecture="small_vit", options={"width": 8, "depth": 1, "heads": 2, "dropout": 0.3})
COUNT = 60
TRAIN, POSITIONS = samples(COUNT, 0, shape=(1, 8, 8)), torch.arange(40, 40 + 2 * COUNT, 2)
PLACES = places_of(POSITIONS, SHARDING, seed=5)
Prepared = Mapping[str, Mapping[str, Tensor]]


@cache
def _original(architecture: str = "small_cnn") -> Trained:
    return train_original(SPEC if architecture == "small_cnn" else VIT, TRAIN, positions=POSITIONS)


def _splits(forget: Tensor, kept: Tensor | None = None) -> UnlearningSplits:
    """Return the splits that forget these rows; with `kept` only those rows are in the training set at all."""
    rows = torch.arange(COUNT) if kept is None else kept
    index = torch.isin(rows, forget).nonzero().squeeze(1)
    return UnlearningSplits(
        train=TRAIN.take(rows),
        forget_index=index,
        selection=samples(30, 1, shape=(1, 8, 8)),
        positions=POSITIONS[rows],
    )


def _around(prepared: Prepared, spec: ModelSpec = SPEC, **changed: Any) -> Surroundings:
    return Surroundings(
        task=Classification(),
        recipe=changed.pop("recipe", spec.recipe),
        build_model=lambda seed: build_model(spec, seed),
        generator=generator_for(9),
        prepared=prepared,
        **changed,
    )


def _forgotten(forget: Tensor, done: Trained | None = None, spec: ModelSpec = SPEC) -> UnlearningResult:
    done = done or _original()
    return sisa(done.model, _splits(forget), SisaConfig(), around=_around(done.prepared, spec))


def _in(shard: int, slice_: int, many: int = 2) -> Tensor:
    rows = ((PLACES.shard == shard) & (PLACES.slice == slice_)).nonzero().squeeze(1)
    assert len(rows) >= many
    return rows[:many]


def _without(forget: Tensor) -> Tensor:
    return (~torch.isin(torch.arange(COUNT), forget)).nonzero().squeeze(1)


def _from_scratch(forget: Tensor, spec: ModelSpec = SPEC) -> Trained:
    kept = _without(forget)
    return train_original(spec, TRAIN.take(kept), positions=POSITIONS[kept])


def _same(a: Prepared, b: Prepared) -> bool:
    one, other = a["shard_checkpoints"], b["shard_checkpoints"]
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    "forget",
    [
        _in(0, 3),
        _in(1, 2),
        _in(2, 1),
        torch.cat([_in(0, 3), _in(0, 2), _in(2, 3)]),
        torch.arange(0, COUNT, 3),
        torch.tensor([7]),
        (PLACES.shard == 1).nonzero().squeeze(1),
        (PLACES.slice == 2).nonzero().squeeze(1),
    ],
    ids=["last slice", "middle", "first", "several", "a class", "one sample", "a whole shard", "a whole slice"],
)
def test_unlearning_equals_training_in_shards_on_the_retain_set_bit_for_bit_checkpoints_included(
    forget: Tensor,
) -> None:
    result, scratch = _forgotten(forget), _from_scratch(forget)
    assert equal(result.model, scratch.model)
    assert _same(result.prepared, scratch.prepared)
    assert not any(module.training for module in result.model.modules())


def test_the_same_holds_of_a_transformer_with_dropout() -> None:
    forget = torch.cat([_in(0, 2), _in(1, 1)])
    result, scratch = _forgotten(forget, _original("small_vit"), VIT), _from_scratch(forget, VIT)
    assert equal(result.model, scratch.model)
    assert _same(result.prepared, scratch.prepared)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sets(st.integers(0, COUNT - 1), min_size=1, max_size=COUNT - 6))
def test_the_same_holds_of_any_forget_set(forget: set[int]) -> None:
    rows = torch.tensor(sorted(forget))
    result, scratch = _forgotten(rows), _from_scratch(rows)
    assert equal(result.model, scratch.model)
    assert _same(result.prepared, scratch.prepared)


def test_the_same_holds_of_requests_in_a_row() -> None:
    first, second, third = _in(0, 3), _in(0, 1), torch.cat([_in(0, 2), _in(2, 3)])
    done, gone = _original(), torch.zeros(0, dtype=torch.int64)
    for forget in (first, second, third):
        splits = _splits(forget, _without(gone))
        result = sisa(done.model, splits, SisaConfig(), around=_around(done.prepared))
        gone = torch.cat([gone, forget])
        done = Trained(model=result.model, facts={}, prepared=result.prepared)
    scratch = _from_scratch(gone)
    assert equal(done.model, scratch.model)
    assert _same(done.prepared, scratch.prepared)


def test_shards_without_a_forgotten_sample_stay_bit_for_bit_and_the_parent_too() -> None:
    before = {name: tensor.clone() for name, tensor in _original().model.state_dict().items()}
    result = _forgotten(_in(1, 2))
    kept = [equal(a, b) for a, b in zip(members(result.model), members(_original().model), strict=True)]
    assert kept == [True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in _original().model.state_dict().items())
    assert {row["shard"] for row in result.history} == {1}


def test_checkpoints_before_the_first_forgotten_sample_are_carried_over_and_later_ones_are_not() -> None:
    result = _forgotten(_in(1, 2))
    old, new = _original().prepared["shard_checkpoints"], result.prepared["shard_checkpoints"]
    weights = [name for name in old if name.endswith("head.weight")]
    differ = {name.rsplit(".head", 1)[0] for name in weights if not torch.equal(old[name], new[name])}
    assert differ == {"shard.1.slice.3"}


@pytest.mark.parametrize("forget", [_in(0, 3), _in(2, 1), torch.cat([_in(0, 2), _in(1, 3)])])
def test_the_passes_paid_are_those_over_the_later_slices_of_the_shards_concerned(forget: Tensor) -> None:
    kept = set(_without(forget).tolist())
    expected = 0
    for shard in range(3):
        mine = [int(PLACES.slice[row]) for row in forget.tolist() if int(PLACES.shard[row]) == shard]
        for stage in range(min(mine, default=4), 4):
            rows = ((PLACES.shard == shard) & (PLACES.slice <= stage)).nonzero().squeeze(1).tolist()
            expected += epochs_per_stage(SPEC.recipe) * len(kept.intersection(rows))
    assert sum(row["samples"] for row in _forgotten(forget).history) == expected


def test_a_forgotten_sample_is_never_read() -> None:
    forget, done = torch.cat([_in(0, 1), _in(2, 3)]), _original()
    splits = _splits(forget)
    other = with_other_images(splits, forget)
    assert not torch.equal(other.train.images, splits.train.images)
    labels = splits.train.labels.clone()
    labels[forget] = -1
    poisoned = replace(splits, train=LabelledSet(images=other.train.images, labels=labels))
    result = sisa(done.model, poisoned, SisaConfig(), around=_around(done.prepared))
    assert equal(result.model, _forgotten(forget).model)
    assert "forget" not in vars(poisoned)


def test_samples_withheld_by_other_requests_are_removed_too() -> None:
    """They stand in neither set, and the model that is made must not know them."""
    withheld, forget = _in(0, 2), _in(2, 3)
    splits = _splits(forget, _without(withheld))
    result = sisa(_original().model, splits, SisaConfig(), around=_around(_original().prepared))
    scratch = _from_scratch(torch.cat([withheld, forget]))
    assert equal(result.model, scratch.model)
    assert _same(result.prepared, scratch.prepared)
    assert not set(POSITIONS[withheld].tolist()) & set(result.prepared["shard_checkpoints"]["positions"].tolist())


def test_a_forgotten_class_is_forgotten_and_the_rest_is_known() -> None:
    """The law above at a size where it shows: a class the ensemble knew, and no longer says."""
    spec = replace(SPEC, recipe=SPEC.recipe.model_copy(update={"epochs": 16, "sisa": Sharding(shards=2, slices=2)}))
    train, at = samples(180, 0, shape=(1, 8, 8)), torch.arange(180)
    done, task = train_original(spec, train, positions=at), Classification()
    gone = train.labels == 2
    splits = UnlearningSplits(
        train=train, forget_index=gone.nonzero().squeeze(1), selection=samples(30, 1, shape=(1, 8, 8)), positions=at
    )
    result = sisa(done.model, splits, SisaConfig(), around=_around(done.prepared, spec))

    def accuracy(model: nn.Module, part: LabelledSet) -> float:
        return task.accuracy(task.predict(model, part), part.labels)

    assert accuracy(done.model, splits.forget) > 0.9
    assert accuracy(result.model, splits.forget) == 0
    assert accuracy(result.model, splits.retain) > 0.9


def test_retraining_such_a_model_trains_it_in_shards_by_a_seed_of_its_own_and_sisa_goes_on_from_there() -> None:
    first, second = _in(0, 1), _in(1, 2)
    around, kept = _around({}), _without(first)
    seed = derived_seed(generator_for(9))
    again = retrain(_original().model, _splits(first), RetrainConfig(), around=around)
    # the shards stay those of the recipe's seed; initialisation and batches follow the new one
    assert int(again.prepared["shard_checkpoints"]["seed"]) == seed != SPEC.recipe.seed
    assert {(row["shard"], row["slice"]) for row in again.history} == {(s, r) for s in range(3) for r in (1, 2, 3)}
    assert not equal(again.model, _from_scratch(first).model)
    after = sisa(again.model, _splits(second, kept), SisaConfig(), around=_around(again.prepared))
    gone = torch.cat([first, second])
    scratch = retrain(_original().model, _splits(gone), RetrainConfig(), around=_around({}))
    assert equal(after.model, scratch.model)
    assert _same(after.prepared, scratch.prepared)


@pytest.mark.parametrize("method", sorted(name for name, spec in CATALOGUE.items() if spec.guarantee == "approximate"))
def test_an_approximate_method_works_on_an_ensemble_and_leaves_no_checkpoints(method: str) -> None:
    done = _original()
    around = _around(done.prepared, max_accuracy_drop=1.0)

    def run() -> UnlearningResult:
        return METHODS[method](done.model, _splits(torch.arange(12)), CATALOGUE[method].config(), around=around)

    if method == "influence":  # its closed form is that of one last layer
        with pytest.raises(UnlearningError, match="not what its last layer"):
            run()
        return
    result = run()
    assert result.prepared == {}
    nets = zip(members(result.model), members(done.model), strict=True)
    assert not any(all(map(torch.equal, a.parameters(), b.parameters())) for a, b in nets)


def _refused(
    match: str, *, model: nn.Module | None = None, splits: UnlearningSplits | None = None, **around: Any
) -> None:
    done = _original()
    given: dict[str, Any] = {"prepared": done.prepared, **around}
    with pytest.raises(UnlearningError, match=match):
        sisa(model or done.model, splits or _splits(_in(0, 1)), SisaConfig(), around=_around(**given))


def test_a_model_that_was_not_trained_in_shards_is_refused_with_what_to_do() -> None:
    plain = SPEC.recipe.model_copy(update={"sisa": None})
    _refused(r"recipe\.sisa.*ask for retrain", recipe=plain)
    _refused(r"recipe\.sisa.*ask for retrain", model=build_model(replace(SPEC, recipe=plain)))


def test_a_version_without_checkpoints_or_with_others_is_refused_with_what_to_do() -> None:
    found = _original().prepared["shard_checkpoints"]
    _refused("no checkpoints.*ask for retrain", prepared={})
    for missing in ("seed", "positions", "shard.2.slice.3.head.weight"):
        part = {name: tensor for name, tensor in found.items() if name != missing}
        _refused("do not fit.*ask for retrain", prepared={"shard_checkpoints": part})
    other = {**found, "shard.2.slice.3.head.weight": torch.zeros(1)}
    _refused("do not fit.*ask for retrain", prepared={"shard_checkpoints": other})


def test_samples_that_the_shards_never_saw_are_refused() -> None:
    found = dict(_original().prepared["shard_checkpoints"])
    found["positions"] = found["positions"][1:]
    _refused(
        "not trained on.*ask for retrain", prepared={"shard_checkpoints": found}, splits=_splits(torch.tensor([9]))
    )


def test_without_positions_or_without_the_retain_set_it_says_so_and_so_does_retraining() -> None:
    placeless = replace(_splits(_in(0, 1)), positions=None)
    _refused("positions", splits=placeless)
    with pytest.raises(UnlearningError, match="positions"):
        retrain(_original().model, placeless, RetrainConfig(), around=_around({}))
    part = _splits(_in(0, 1))
    gone = UnlearningSplits.forget_only(part.forget, part.selection, retained_labels=torch.tensor([0, 1, 2]))
    with pytest.raises(RetainSetGoneError):
        sisa(_original().model, gone, SisaConfig(), around=_around(_original().prepared))


def test_a_retain_set_too_small_for_any_shard_is_refused() -> None:
    forget = torch.arange(1, COUNT)
    _refused("fewer shards", splits=_splits(forget))
    with pytest.raises(UnlearningError, match="fewer shards"):
        retrain(_original().model, _splits(forget), RetrainConfig(), around=_around({}))


def test_a_loss_that_is_not_finite_is_told_as_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*_: Any, **__: Any) -> None:
        raise NonFiniteLossError("loss is not finite in unlearn epoch 1")

    monkeypatch.setattr(shards, "train_sharded", diverging)
    with pytest.raises(DivergedError, match="not finite"):
        _forgotten(_in(0, 1))


@pytest.mark.parametrize(("method", "leaves"), [("sisa", True), ("retrain", True), ("finetune", False)])
def test_the_pipeline_hands_over_what_the_method_left_and_nothing_stale(
    method: str, monkeypatch: pytest.MonkeyPatch, *, leaves: bool
) -> None:
    monkeypatch.setattr("workers.evaluation.measure.DEFAULT_PROFILE", RelearningProfile(max_steps=4, rates=(0.01,)))
    done, splits, kept = _original(), _splits(_in(0, 2)), list[Prepared]()
    held_out = samples(60, 2, shape=(1, 8, 8))
    sets = EvaluationSplits(
        retain=splits.retain, forget=splits.forget, audit=held_out.take(torch.arange(30)), test=held_out
    )
    told = {"prepared": done.prepared, "keep": kept.append, "max_accuracy_drop": 1.0}
    model, report = erase(SPEC, done.model, splits, sets, method=method, seed=1, **told)  # type: ignore[arg-type]
    assert [bool(found) for found in kept] == [leaves]
    assert not equal(model, done.model)
    assert report["guarantee"] == ("exact" if leaves else "approximate")
