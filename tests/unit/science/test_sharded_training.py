"""Training in shards: what each network sees, in which order, at which cost, and what of it is kept."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.catalogue.recipe import Recipe, Sharding
from tests.method_cases import equal, samples
from workers import sharded_training
from workers.architectures.ensemble import Ensemble, members
from workers.classification import Classification
from workers.pipeline import ModelSpec, Trained, build_model, train_original
from workers.reproducibility import deterministic, generator_for
from workers.samples import LabelledSet
from workers.sharded_training import (
    NotPlacedError,
    ShardedTraining,
    TooManyShardsError,
    epochs_per_stage,
    train_sharded,
)
from workers.sharding import places_of, stage_seed
from workers.training import EmptySetError, NonFiniteLossError, train

TASK = Classification()
SHARDING = Sharding(shards=3, slices=2)
RECIPE = Recipe(epochs=3, batch_size=8, lr=0.05, seed=5, sisa=SHARDING)
SPEC = ModelSpec(
    architecture="small_cnn", options={"width": 4}, image_shape=(1, 8, 8), num_classes=3, recipe=RECIPE
)  # fmt: skip
COUNT = 48
TRAIN, POSITIONS = samples(COUNT, 0, shape=(1, 8, 8)), torch.arange(100, 100 + 3 * COUNT, 3)


def _with(**recipe: Any) -> ModelSpec:
    return replace(SPEC, recipe=RECIPE.model_copy(update=recipe))


def _trained(
    spec: ModelSpec = SPEC, train_set: LabelledSet = TRAIN, positions: Tensor = POSITIONS, **more: Any
) -> tuple[Ensemble, ShardedTraining]:
    ensemble = build_model(spec)
    assert isinstance(ensemble, Ensemble)
    wanted: dict[str, Any] = {"positions": positions, "seed": 5, "task": TASK, **more}
    return ensemble, train_sharded(ensemble, train_set, spec.recipe, **wanted)


def _rows(shard: int, up_to: int, *, sharding: Sharding = SHARDING, positions: Tensor = POSITIONS) -> Tensor:
    places = places_of(positions, sharding, seed=5)
    return ((places.shard == shard) & (places.slice <= up_to)).nonzero().squeeze(1)


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize(
    ("epochs", "slices", "each"), [(25, 1, 25), (10, 2, 7), (5, 3, 3), (12, 5, 4), (1, 64, 1), (10, 64, 1), (1, 1, 1)]
)
def test_the_epochs_of_a_stage_are_two_over_slices_plus_one_of_the_recipes(epochs: int, slices: int, each: int) -> None:
    recipe = Recipe(epochs=epochs, sisa=Sharding(shards=2, slices=slices))
    assert epochs_per_stage(recipe) == each


@pytest.mark.parametrize(("epochs", "slices"), [(60, 2), (60, 4), (60, 9)])
def test_stages_pass_over_as_many_samples_as_plain_epochs_where_the_share_is_whole(epochs: int, slices: int) -> None:
    each = epochs_per_stage(Recipe(epochs=epochs, sisa=Sharding(shards=1, slices=slices)))
    assert sum(each * r for r in range(1, slices + 1)) == epochs * slices


def test_each_network_is_what_its_stages_written_out_give_it_and_checkpoints_are_what_it_was_before_them() -> None:
    ensemble, training = _trained()
    own = Recipe(epochs=2, batch_size=8, lr=0.05)
    plain = replace(SPEC, recipe=own)
    for shard in range(3):
        net = build_model(plain, stage_seed(5, shard=shard, stage=1))
        for stage in (1, 2):
            if stage == 2:
                kept = {f"shard.{shard}.slice.2.{name}": tensor for name, tensor in net.state_dict().items()}
                assert all(torch.equal(training.checkpoints[name], tensor) for name, tensor in kept.items())
            generator = generator_for(stage_seed(5, shard=shard, stage=stage))
            with deterministic():
                train(net, TRAIN.take(_rows(shard, stage)), own, task=TASK, generator=generator)
        assert equal(net, ensemble.nets[shard])
    assert len(training.checkpoints) == 3 * len(ensemble.nets[0].state_dict())
    assert not any(module.training for module in ensemble.modules())


def test_the_passes_are_what_shards_and_slices_say() -> None:
    training = _trained()[1]
    expected = [(s, r, len(_rows(s, r))) for s in range(3) for r in (1, 2) for _ in range(2)]
    assert [(epoch.shard, epoch.slice, epoch.samples) for epoch in training.epochs] == expected
    assert training.sample_passes == sum(count for _, _, count in expected)
    last = {shard: epoch for shard in range(3) for epoch in training.epochs if epoch.shard == shard}
    weighted = sum(epoch.loss * epoch.samples for epoch in last.values()) / COUNT
    assert training.final_loss == pytest.approx(weighted)


def test_the_order_of_the_samples_does_not_matter() -> None:
    order = torch.randperm(COUNT, generator=generator_for(1))
    straight, shuffled = _trained(), _trained(train_set=TRAIN.take(order), positions=POSITIONS[order])
    assert equal(straight[0], shuffled[0])
    assert _same(straight[1].checkpoints, shuffled[1].checkpoints)


@pytest.mark.parametrize("architecture", ["small_cnn", "small_vit"])
def test_a_shard_knows_nothing_of_another_shards_samples(architecture: str) -> None:
    """Dropout too: its draws start anew in each stage."""
    options = {"width": 4} if architecture == "small_cnn" else {"width": 8, "depth": 1, "heads": 2, "dropout": 0.3}
    spec = replace(SPEC, architecture=architecture, options=options)
    others = torch.ones(COUNT, dtype=torch.bool)
    others[_rows(1, 2)[:4]] = False
    kept = others.nonzero().squeeze(1)
    whole, partial = _trained(spec)[0], _trained(spec, TRAIN.take(kept), POSITIONS[kept])[0]
    assert [equal(a, b) for a, b in zip(whole.nets, partial.nets, strict=True)] == [True, False, True]


@pytest.mark.parametrize("architecture", ["small_cnn", "small_vit"])
def test_a_single_shard_in_one_slice_is_plain_training_bit_for_bit(architecture: str) -> None:
    options = {"width": 4} if architecture == "small_cnn" else {"width": 8, "depth": 1, "heads": 2, "dropout": 0.3}
    plain = replace(SPEC, architecture=architecture, options=options, recipe=RECIPE.model_copy(update={"sisa": None}))
    sharded = replace(plain, recipe=RECIPE.model_copy(update={"sisa": Sharding(shards=1, slices=1)}))
    done, in_shards = train_original(plain, TRAIN), train_original(sharded, TRAIN, positions=POSITIONS)
    assert equal(done.model, members(in_shards.model)[0])
    assert done.facts["epoch_losses"] == in_shards.facts["epoch_losses"]


def test_a_stage_without_new_samples_trains_again_on_those_before_it() -> None:
    places = places_of(POSITIONS, SHARDING, seed=5)
    first = (places.slice == 1).nonzero().squeeze(1)
    training = _trained(train_set=TRAIN.take(first), positions=POSITIONS[first])[1]
    counts = {(epoch.shard, epoch.slice): epoch.samples for epoch in training.epochs}
    assert all(counts[s, 1] == counts[s, 2] == len(_rows(s, 1)) for s in range(3))


@pytest.mark.parametrize("left", [0, 1])
def test_a_shard_with_less_than_two_samples_keeps_its_initialisation_and_the_average_stays_defined(left: int) -> None:
    kept = torch.cat([_rows(0, 2)[:left], _rows(1, 2), _rows(2, 2)])
    ensemble, training = _trained(train_set=TRAIN.take(kept), positions=POSITIONS[kept])
    assert equal(ensemble.nets[0], members(build_model(SPEC))[0])
    assert not equal(ensemble.nets[1], members(build_model(SPEC))[1])
    assert {epoch.shard for epoch in training.epochs} == {1, 2}
    assert any(name.startswith("shard.0.slice.2.") for name in training.checkpoints)
    assert bool(TASK.predict(ensemble, TRAIN).isfinite().all())


def test_a_batch_norm_net_can_have_slices_of_single_samples() -> None:
    _trained(_with(sisa=Sharding(shards=2, slices=16)))


def test_more_shards_than_samples_are_refused_where_nothing_could_be_trained() -> None:
    spec = _with(sisa=Sharding(shards=64, slices=1))
    two = torch.tensor([0, 1])
    assert len(set(places_of(POSITIONS[two], Sharding(shards=64, slices=1), seed=5).shard.tolist())) == 2
    with pytest.raises(TooManyShardsError, match="fewer shards"):
        _trained(spec, TRAIN.take(two), POSITIONS[two])


def test_only_the_stages_named_are_run_from_the_weights_given() -> None:
    whole, training = _trained()
    again = build_model(SPEC)
    assert isinstance(again, Ensemble)
    names = again.nets[2].state_dict()
    again.nets[2].load_state_dict({name: training.checkpoints[f"shard.2.slice.2.{name}"] for name in names})
    rest = train_sharded(again, TRAIN, RECIPE, positions=POSITIONS, seed=5, task=TASK, start={2: 2})
    assert equal(again.nets[2], whole.nets[2])
    assert {(epoch.shard, epoch.slice) for epoch in rest.epochs} == {(2, 2)}
    assert equal(again.nets[0], members(build_model(SPEC))[0])
    assert {name.split(".")[1] for name in rest.checkpoints} == {"2"}


def test_progress_counts_the_epochs_of_all_stages() -> None:
    told: list[tuple[str, int, int]] = []
    _trained(progress=lambda *row: told.append(row), phase="unlearn")
    assert told == [("unlearn", done, 12) for done in range(1, 13)]


def test_samples_without_a_place_or_with_the_same_one_are_refused() -> None:
    with pytest.raises(NotPlacedError, match="int64"):
        _trained(positions=POSITIONS[1:])
    with pytest.raises(NotPlacedError, match="int64"):
        _trained(positions=POSITIONS.double())
    with pytest.raises(NotPlacedError, match="same position"):
        _trained(positions=torch.cat([POSITIONS[:1], POSITIONS[:-1]]))
    with pytest.raises(NotPlacedError, match="positions"):
        train_original(SPEC, TRAIN)
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(EmptySetError):
        _trained(train_set=TRAIN.take(none), positions=none)


def test_a_recipe_without_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="sisa"):
        train_sharded(
            Ensemble([nn.Identity()]), TRAIN, Recipe(), positions=POSITIONS, seed=0, task=TASK
        )  # fmt: skip


def test_a_loss_that_is_not_finite_ends_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*_: Any, **__: Any) -> None:
        raise NonFiniteLossError("loss is not finite in train epoch 1")

    monkeypatch.setattr(sharded_training, "train", diverging)
    with pytest.raises(NonFiniteLossError):
        _trained()


def test_an_original_comes_with_its_checkpoints_its_seed_and_whom_it_was_trained_on() -> None:
    done: Trained = train_original(SPEC, TRAIN, positions=POSITIONS)
    ensemble, training = _trained()
    found = done.prepared["shard_checkpoints"]
    assert equal(done.model, ensemble)
    assert int(found["seed"]) == 5
    assert found["positions"].tolist() == POSITIONS.tolist()
    checkpoints = {name: tensor for name, tensor in found.items() if name not in ("seed", "positions")}
    assert _same(checkpoints, training.checkpoints)
    assert done.facts["sample_passes"] == training.sample_passes
    assert done.facts["final_loss"] == training.final_loss
    assert train_original(_with(sisa=None), TRAIN).prepared == {}
