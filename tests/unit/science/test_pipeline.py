"""The pipeline: faults of weights told all at once, training that repeats, and the report of an erasure."""

import copy
import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from service.catalogue.bounds import DEFAULT_BOUNDS
from service.catalogue.methods import METHODS, FinetuneConfig, RetrainConfig, ScrubConfig
from service.catalogue.recipe import Recipe
from workers import pipeline
from workers.evaluation.gate import Bar
from workers.evaluation.relearning_curve import RelearningProfile
from workers.evaluation.report import EvaluationSplits
from workers.phases import EVALUATE
from workers.pipeline import ModelSpec, build_model, erase, train_original, validate_parameters
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.training import NonFiniteLossError
from workers.unlearning.interface import UnknownMethodError, UnlearningError, UnlearningResult, UnlearningSplits
from workers.work import groups_of

SPEC = ModelSpec(
    architecture="small_cnn",
    options={"width": 4},
    image_shape=(1, 8, 8),
    num_classes=3,
    recipe=Recipe(epochs=4, batch_size=32, seed=5),
)


@pytest.fixture(autouse=True)
def short_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.evaluation.measure.DEFAULT_PROFILE", RelearningProfile(max_steps=6, rates=(0.01,)))


def _samples(n: int, seed: int) -> LabelledSet:
    labels = torch.arange(n) % 3
    noise = 60 * torch.randn(n, 1, 8, 8, generator=generator_for(seed))
    grey = 64.0 + 64 * labels[:, None, None, None] + noise
    return LabelledSet(images=grey.clamp(0, 255).to(torch.uint8), labels=labels)


@cache
def _parent() -> tuple[nn.Module, dict[str, Any]]:
    done = train_original(SPEC, _samples(120, 0))
    return done.model, done.facts


def _erase(method: str = "finetune", **changes: Any) -> tuple[nn.Module, dict[str, Any]]:
    splits = UnlearningSplits(train=_samples(120, 0), forget_index=torch.arange(18), selection=_samples(30, 1))
    held_out = _samples(90, 2)
    sets = EvaluationSplits(
        retain=splits.retain, forget=splits.forget, audit=held_out.take(torch.arange(45)), test=held_out
    )
    given = {"method": method, "seed": 1, "max_accuracy_drop": 1.0, **changes}
    return erase(SPEC, _parent()[0], splits, sets, **given)


def _equal(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def test_a_models_own_weights_have_no_fault() -> None:
    assert validate_parameters(SPEC, build_model(SPEC).state_dict()) == []


def test_every_fault_is_told_at_once() -> None:
    tensors = dict(build_model(SPEC).state_dict())
    gone, names = "head.bias", list(tensors)
    del tensors[gone]
    tensors["extra.weight"] = torch.zeros(1)
    tensors["head.weight"] = torch.full((2, 16), torch.nan, dtype=torch.float64)
    variance = next(name for name in names if name.endswith("running_var"))
    tensors[variance] = -torch.ones_like(tensors[variance])
    faults = validate_parameters(SPEC, tensors)
    expected = [
        "missing tensor 'head.bias'",
        "unexpected tensor 'extra.weight'",
        "shape (2, 16)",
        "dtype torch.float64",
        "'head.weight' holds values that are not finite",
        f"{variance!r} holds negative",
    ]
    for told in expected:
        assert any(told in fault for fault in faults), told
    assert len(faults) == len(expected)


def test_an_empty_file_misses_everything() -> None:
    assert len(validate_parameters(SPEC, {})) == len(build_model(SPEC).state_dict())


def test_training_repeats_by_the_recipes_seed_and_tells_facts_in_json() -> None:
    model, facts = _parent()
    again = train_original(SPEC, _samples(120, 0)).model
    assert _equal(model, again)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert (facts["epochs"], facts["samples"], facts["seed"]) == (4, 120, 5)
    assert facts["final_loss"] == facts["epoch_losses"][-1] < facts["epoch_losses"][0]
    assert facts["seconds"] > 0
    assert facts["environment"]["deterministic"]


def test_dropout_repeats_by_the_seed_too_and_the_random_state_of_others_is_left_alone() -> None:
    options = {"width": 16, "depth": 1, "heads": 2, "dropout": 0.3}
    spec = replace(SPEC, architecture="small_vit", options=options)
    state = torch.get_rng_state()
    first, second = (train_original(spec, _samples(60, 0)).model for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert _equal(first, second)
    splits = UnlearningSplits(train=_samples(60, 0), forget_index=torch.arange(9), selection=_samples(30, 1))
    sets = EvaluationSplits(retain=splits.retain, forget=splits.forget, audit=_samples(30, 2), test=_samples(60, 3))
    config = FinetuneConfig(epochs=1)
    tuned = [
        erase(spec, first, splits, sets, method="finetune", config=config, seed=seed, max_accuracy_drop=1.0)[0]
        for seed in (1, 1, 2)
    ]
    assert _equal(tuned[0], tuned[1])
    assert not _equal(tuned[0], tuned[2])


def test_training_that_diverges_says_so() -> None:
    recipe = Recipe(epochs=30, lr=10, momentum=0.99, weight_decay=0.9, schedule="constant")
    spec = ModelSpec(
        architecture="small_cnn", options={"width": 4}, image_shape=(1, 8, 8), num_classes=3, recipe=recipe
    )
    with pytest.raises(NonFiniteLossError):
        train_original(spec, _samples(120, 0))


def test_the_report_tells_method_history_time_and_environment_in_json() -> None:
    told: list[tuple[str, int, int]] = []
    config = FinetuneConfig(epochs=2)
    _, report = _erase(config=config, training_seconds=10.0, progress=lambda *row: told.append(row))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["task"], type(report["task"])) == ("classification", str)
    assert (report["method"], report["guarantee"], report["fidelity"]) == ("finetune", "approximate", "paper")
    assert (report["seed"], report["config"]) == (1, config.model_dump(mode="json"))
    assert [row["epoch"] for row in report["history"]] == [0, 1, 2]
    assert report["selection"]["epoch"] == 2
    seconds = report["seconds"]
    assert seconds.keys() == {"unlearning", "evaluation", "training", "share_of_training"}
    assert seconds["share_of_training"] == pytest.approx(seconds["unlearning"] / 10)
    assert seconds["evaluation"] > 0
    assert report["environment"]["device"] == "cpu"
    assert report["gate"]["verdict"] == "not_evaluated"
    assert report["gate"]["sentence"].endswith(".")
    assert {"metrics", "parent_metrics", "per_request", "does_not_prove", "durations"} <= report.keys()
    assert {phase for phase, _, _ in told} >= {"unlearn", "relearn"}


def test_without_the_seconds_of_training_no_share_is_told() -> None:
    seconds = _erase(config=FinetuneConfig(epochs=1))[1]["seconds"]
    assert seconds["training"] is None
    assert seconds["share_of_training"] is None


def test_an_erasure_leaves_the_parent_alone_and_repeats_by_its_seed() -> None:
    before = copy.deepcopy(_parent()[0])
    config = ScrubConfig(epochs=2, msteps=1)
    first, second = (_erase("scrub", config=config)[0] for _ in range(2))
    assert _equal(first, second)
    assert not _equal(first, _erase("scrub", config=config, seed=2)[0])
    assert _equal(_parent()[0], before)


@pytest.mark.parametrize("method", ["scrub", "scrub_r", "finetune", "retrain"])
def test_every_method_runs_on_its_defaults(method: str) -> None:
    model, report = _erase(method)
    assert not _equal(model, _parent()[0])
    assert report["guarantee"] == ("exact" if method == "retrain" else "approximate")


def test_a_model_whose_weights_did_not_move_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(model: nn.Module, *_: Any, **__: Any) -> UnlearningResult:
        same = copy.deepcopy(model)
        for name, buffer in same.named_buffers():
            if name.endswith("running_mean"):
                buffer += 1
        return UnlearningResult(model=same, history=({"epoch": 0},), seconds=0.0)

    monkeypatch.setattr(pipeline, "method_named", lambda _name: nothing)
    with pytest.raises(UnlearningError, match="bit for bit") as caught:
        _erase()
    assert caught.value.history == ({"epoch": 0},)


def test_accuracy_lost_beyond_doubt_is_told_by_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrecked(model: nn.Module, *_: Any, **__: Any) -> UnlearningResult:
        broken = copy.deepcopy(model)
        with torch.no_grad():
            for weight in broken.parameters():
                weight.zero_()
        return UnlearningResult(model=broken, history=(), seconds=0.0)

    monkeypatch.setattr(pipeline, "method_named", lambda _name: wrecked)
    bar = Bar(bounds=DEFAULT_BOUNDS["privacy"], max_accuracy_drop=0.01)
    gate = _erase(bar=bar)[1]["gate"]
    assert (gate["verdict"], gate["breaker"]) == ("fail", True)
    assert "0.0100 allowed" in gate["sentence"]


def test_a_whole_class_is_held_against_chance_and_retraining_passes_on_its_guarantee() -> None:
    whole = UnlearningSplits(
        train=_samples(120, 0),
        forget_index=(_samples(120, 0).labels == 1).nonzero().squeeze(1),
        selection=_samples(60, 1),
    )
    sets = EvaluationSplits(retain=whole.retain, forget=whole.forget, audit=_samples(60, 2), test=_samples(90, 3))
    bar = Bar(bounds=DEFAULT_BOUNDS["privacy"], max_accuracy_drop=0.02)
    _, report = erase(SPEC, _parent()[0], whole, sets, method="retrain", seed=1, bar=bar)
    ratio = next(bound for bound in report["gate"]["bounds"] if bound["metric"] == "relearning_ratio")
    assert "its accuracy stands in" in ratio["sentence"]
    assert ratio["limit"] == pytest.approx(1 / 3)
    assert report["gate"]["verdict"] == "pass" or report["gate"]["breaker"]


def test_an_unknown_method_or_another_methods_options_are_refused() -> None:
    with pytest.raises(UnknownMethodError):
        _erase("forget_me")
    with pytest.raises(TypeError, match="FinetuneConfig"):
        _erase("finetune", config=RetrainConfig())


def test_groups_are_reported_request_by_request() -> None:
    # Samples that two requests name may have been erased for one of them before the other's job began.
    groups = groups_of({"groups": {"a": list(range(9)), "b": list(range(9, 18)), "none left": []}})
    report = _erase(config=FinetuneConfig(epochs=1), groups=groups)[1]
    assert [(row["request"], row["n"]) for row in report["per_request"]] == [("a", 9), ("b", 9), ("none left", 0)]
    assert report["per_request"][2]["mia_threshold.phi.auc"] is None


@pytest.mark.parametrize("method", sorted(METHODS))
def test_without_a_selection_pool_only_exact_methods_and_those_that_stop_by_themselves_work(method: str) -> None:
    splits = UnlearningSplits(train=_samples(60, 0), forget_index=torch.arange(18), selection=_samples(0, 1))
    sets = EvaluationSplits(retain=splits.retain, forget=splits.forget, audit=_samples(15, 2), test=_samples(30, 2))

    def run() -> Any:
        return erase(SPEC, _parent()[0], splits, sets, method=method, seed=1, max_accuracy_drop=1.0)

    if METHODS[method].needs_sharded_recipe:
        with pytest.raises(UnlearningError, match=r"registered with `recipe\.sisa`"):
            run()
        return
    if METHODS[method].guarantee == "exact" or METHODS[method].own_stop:
        assert run()[1]["method"] == method
        return
    with pytest.raises(UnlearningError, match=r"selection pool is empty.*retrain"):
        run()


def test_progress_says_once_when_evaluation_begins_and_no_method_reports_after_it() -> None:
    said: list[str] = []
    _erase("finetune", progress=lambda phase, _done, _total: said.append(phase))
    assert said.count(EVALUATE) == 1
    begun = said.index(EVALUATE)
    assert set(said[:begun]) == {"unlearn"}
    assert "unlearn" not in said[begun:]
    assert {"predict", "relearn"} <= set(said[begun:])
