"""Reference models: each learns its half, halves do not depend on how copies are trained, weights do not stay."""

import gc
import hashlib
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.catalogue.recipe import Recipe, Sharding
from workers import reference_training
from workers.classification import Classification
from workers.evaluation.lira import lira_offline, lira_online
from workers.evaluation.reference_arrays import AuditedSide, reference_arrays
from workers.evaluation.rmia import rmia
from workers.evaluation.scores import phi
from workers.pipeline import ModelSpec, build_model, train_original
from workers.reference_training import PlacedSamples, TrainedReferences, spec_digest, train_references
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.sharded_training import train_sharded
from workers.stacking import stacked_size

SPEC = ModelSpec(
    architecture="small_cnn",
    options={"width": 4},
    image_shape=(1, 8, 8),
    num_classes=3,
    recipe=Recipe(epochs=2, batch_size=16, lr=0.02),
)


def _placed(count: int, first: int, seed: int = 0) -> PlacedSamples:
    """Noise: what a network says of it, it learned by heart."""
    generator = generator_for(seed)
    images = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    return PlacedSamples(
        samples=LabelledSet(images=images, labels=labels), positions=torch.arange(first, first + count).flip(0)
    )


POOL, POPULATION = _placed(45, 10), _placed(9, 100, seed=1)


def _references(spec: ModelSpec = SPEC, **changed: Any) -> TrainedReferences:
    wanted = {"pool": POOL, "population": POPULATION, "models": 4, "seed": 3, **changed}
    return train_references(spec, wanted.pop("pool"), wanted.pop("population"), **wanted)


def test_logits_cover_every_sample_and_half_of_the_references_saw_it() -> None:
    found = _references().logits
    assert found.logits.shape == (4, 45, 3)
    assert found.population.shape == (4, 9, 3)
    assert found.logits.dtype == torch.float32
    assert (found.in_mask.sum(0) == 2).all()
    assert torch.equal(found.positions, POOL.positions)


def test_references_know_the_samples_they_were_trained_on() -> None:
    spec = replace(SPEC, recipe=Recipe(epochs=40, batch_size=16, lr=0.05))
    found = _references(spec).logits
    for logits, mask in zip(found.logits, found.in_mask, strict=True):
        scores = phi(logits, POOL.samples.labels)
        assert float(scores[mask].mean()) > float(scores[~mask].mean()) + 1


@pytest.mark.parametrize("at_once", [2, 3, 4])
def test_stacked_and_plain_references_say_the_same(at_once: int) -> None:
    fitting = stacked_size(build_model(SPEC), POOL.samples, batch_size=16, budget_bytes=10**9, task=Classification())
    budget = int((at_once + 0.5) * 10**9 / fitting)
    plain, stacked = _references(way="plain"), _references(way="stacked", budget_bytes=budget)
    assert (stacked.plan.way, stacked.plan.at_once) == ("stacked", at_once)
    assert torch.equal(plain.logits.in_mask, stacked.logits.in_mask)
    torch.testing.assert_close(stacked.logits.logits, plain.logits.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(stacked.logits.population, plain.logits.population, rtol=1e-3, atol=1e-3)
    assert stacked.final_losses == pytest.approx(plain.final_losses, rel=1e-3)


def test_a_seed_repeats_references_differ_from_each_other_and_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = _references(), _references(), _references(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.logits.logits, again.logits.logits)
    assert not torch.equal(first.logits.in_mask, other.logits.in_mask)
    assert len({float(logits.sum()) for logits in first.logits.logits}) == 4


@pytest.mark.parametrize("way", ["plain", "stacked"])
def test_no_weight_outlives_the_call_and_none_is_written(
    way: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[weakref.ref[nn.Module]] = []

    def remembering(spec: ModelSpec, seed: int | None = None) -> nn.Module:
        model = build_model(spec, seed)
        built.append(weakref.ref(model))
        return model

    monkeypatch.setattr(reference_training, "build_model", remembering)
    monkeypatch.chdir(tmp_path)
    kept = _references(way=way)
    gc.collect()
    assert len(built) >= 4
    assert not any(reference() for reference in built)
    assert kept.logits.models == 4
    assert not list(tmp_path.rglob("*"))


def test_progress_counts_the_epochs_of_all_references() -> None:
    told: list[tuple[str, int, int]] = []
    _references(progress=lambda *step: told.append(step))
    assert told == [("references", done, 8) for done in range(1, 9)]


def test_references_of_a_model_trained_in_shards_are_trained_in_the_same_shards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    def remembering(*given: Any, **wanted: Any) -> Any:
        asked.append({**wanted, "count": len(given[1])})
        return train_sharded(*given, **wanted)

    monkeypatch.setattr(reference_training, "train_sharded", remembering)
    spec = replace(SPEC, recipe=SPEC.recipe.model_copy(update={"sisa": Sharding(shards=2, slices=2)}))
    told: list[tuple[str, int, int]] = []
    found = _references(spec, way="stacked", progress=lambda *step: told.append(step))
    assert (found.plan.way, found.plan.at_once) == ("plain", 1)
    assert len({each["seed"] for each in asked}) == 4
    halves = [sorted(POOL.positions[mask].tolist()) for mask in found.logits.in_mask]
    assert sorted(sorted(each["positions"].tolist()) for each in asked) == sorted(halves)
    assert all(each["count"] == len(each["positions"]) for each in asked)
    assert len({float(logits.sum()) for logits in found.logits.logits}) == 4
    # log-probabilities, as the ensemble returns them
    torch.testing.assert_close(found.logits.logits.exp().sum(2), torch.ones(4, 45))
    done = [step[1] for step in told]
    assert (done == sorted(done), done[-1], {total for _, _, total in told}) == (True, 8, {8})


def test_the_digest_of_a_recipe_without_shards_is_what_it_was_before_there_were_any() -> None:
    parts = {
        "architecture": "small_cnn",
        "options": {"width": 4},
        "image_shape": [1, 8, 8],
        "num_classes": 3,
        "recipe": {
            "epochs": 2,
            "batch_size": 16,
            "optimizer": "sgd",
            "lr": 0.02,
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "schedule": "one_cycle",
            "seed": 0,
        },
    }
    written = json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()
    assert spec_digest(SPEC) == hashlib.sha256(written).hexdigest()


def test_an_odd_number_of_references_is_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        _references(models=3)


def test_the_specifications_digest_tells_every_part_apart() -> None:
    others: list[dict[str, Any]] = [
        {"options": {"width": 8}},
        {"image_shape": (3, 8, 8)},
        {"num_classes": 4},
        {"recipe": Recipe(epochs=2, batch_size=16, lr=0.02, seed=1)},
        {"recipe": Recipe(epochs=2, batch_size=16, lr=0.02, sisa=Sharding(shards=2, slices=1))},
        {"architecture": "resnet18"},
    ]
    digests = {spec_digest(replace(SPEC, **changed)) for changed in others}
    assert len(digests | {spec_digest(SPEC)}) == 7
    assert spec_digest(SPEC) == spec_digest(replace(SPEC))


def test_attacks_on_the_references_tell_what_was_learned_by_heart_and_nothing_else() -> None:
    """The audited network was trained on the pool's first two thirds; controls are the rest, then members are."""
    spec = replace(SPEC, recipe=Recipe(epochs=40, batch_size=16, lr=0.05))
    pool, population = _placed(180, 10), _placed(30, 1000, seed=1)
    references = _references(spec, pool=pool, population=population).logits
    members = torch.arange(120)
    audited = train_original(spec, pool.samples.take(members)).model

    def side(part: PlacedSamples, index: Tensor) -> AuditedSide:
        samples = part.samples.take(index)
        logits = Classification().predict(audited, samples)
        return AuditedSide(logits=logits, labels=samples.labels, positions=part.positions[index])

    def aucs(some: Tensor, others: Tensor) -> dict[str, float]:
        found = reference_arrays(
            references,
            members=side(pool, some),
            controls=side(pool, others),
            population=side(population, torch.arange(30)),
        )
        common: dict[str, Any] = {"seen": found.seen, "records": found.records}
        results = [
            *lira_offline(found.phi, found.is_member, reference=found.reference_phi, **common),
            *lira_online(found.phi, found.is_member, reference=found.reference_phi, **common),
            *rmia(
                found.confidence,
                found.is_member,
                reference=found.reference_confidence,
                population=found.population,
                **common,
            ),
        ]
        return {result.name: result.value for result in results if result.name.endswith("auc") and result.value}

    leaking, clean = aucs(members[:60], torch.arange(120, 180)), aucs(members[::2], members[1::2])
    assert len(leaking) == len(clean) == 4
    assert all(value > 0.75 for value in leaking.values()), leaking
    # 3.3 standard errors of an AUC between 60 and 60 samples of one distribution
    assert all(abs(value - 0.5) < 0.175 for value in clean.values()), clean
