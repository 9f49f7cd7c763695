"""What is asked of the core methods in every scenario of forgetting; digits, small nets, few epochs."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.forget_sets import CONFUSED, ONE_CLASS, SCENARIOS, SUB_CLASS, TWO_CLASSES, Cut
from benchmarks.gate import pools_of
from service.catalogue.methods import METHODS as CATALOGUE
from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.data import read
from workers.evaluation.confusion import confusion
from workers.pipeline import ModelSpec, build_model, train_original
from workers.reproducibility import deterministic, generator_for
from workers.samples import LabelledSet
from workers.unlearning import METHODS
from workers.unlearning.interface import (
    Surroundings,
    UnlearningError,
    UnlearningResult,
    UnlearningSplits,
    UtilityLostError,
)

SHORT: Mapping[str, Mapping[str, Any]] = {
    "mu_mis": {"max_checks": 4, "max_halvings": 6},
    "ieu": {"epochs": 1, "tail_epochs": 2},
    "neggrad_plus": {"epochs": 2, "tail_epochs": 1, "retain_batch_size": 64},
    "salun": {"epochs": 2, "tail_epochs": 1, "retain_batch_size": 64},
    "ssd": {"shares": (0.005, 0.02, 0.1)},
    "delete": {"epochs": 6},
    "noise_finetune": {"epochs": 3},
    "scrub": {"epochs": 4, "msteps": 2, "lr_decay_epochs": (2,), "retain_batch_size": 64},
    "scrub_r": {"epochs": 4, "msteps": 2, "lr_decay_epochs": (2,), "more_epochs": 1, "retain_batch_size": 64},
    "finetune": {"epochs": 2},
    "retrain": {},
}
"""The core methods with options that make them quick; what they do stays what it is."""
TASK, TRAIN, EPOCHS = Classification(), 800, 12


@cache
def _cut(scenario: str) -> Cut:
    pools = pools_of(read({"source": "sklearn:digits"}), 0)
    fewer = pools["train"].take(torch.arange(TRAIN))
    return SCENARIOS[scenario]({**pools, "train": fewer}, generator_for(0))


def _spec(cut: Cut) -> ModelSpec:
    return ModelSpec(
        architecture="small_cnn",
        options={"width": 8},
        image_shape=(1, 8, 8),
        num_classes=cut.num_classes,
        recipe=Recipe(epochs=EPOCHS, seed=0),
    )


@cache
def _trained(scenario: str) -> nn.Module:
    return train_original(_spec(_cut(scenario)), _cut(scenario).pools["train"]).model


def _parent(scenario: str) -> nn.Module:
    """Return the net trained on all; scenarios with the same labels share one."""
    return _trained(scenario if scenario in ("sub-class", "mislabelled") else "random 1 %")


def _splits(scenario: str) -> UnlearningSplits:
    pools = _cut(scenario).pools
    return UnlearningSplits(
        train=pools["train"], forget_index=_cut(scenario).forget_index, selection=pools["selection"]
    )


def _run(method: str, scenario: str, **options: Any) -> UnlearningResult:
    spec = _spec(_cut(scenario))
    around = Surroundings(
        task=TASK,
        recipe=spec.recipe,
        build_model=lambda seed: build_model(spec, seed),
        generator=generator_for(0),
        max_accuracy_drop=0.05,
    )
    config = CATALOGUE[method].config.model_validate({**SHORT[method], **options})
    with deterministic(0):
        return METHODS[method](_parent(scenario), _splits(scenario), config, around=around)


@cache
def _retrained(scenario: str) -> nn.Module:
    return _run("retrain", scenario).model


def _accuracy(model: nn.Module, samples: LabelledSet) -> float:
    return TASK.accuracy(TASK.predict(model, samples), samples.labels)


def _test_set(scenario: str, classes: tuple[int, ...], *, inside: bool) -> LabelledSet:
    test = _cut(scenario).pools["test"]
    return test.take(torch.isin(test.labels, torch.tensor(classes)) == inside)


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values() if value.is_floating_point()])


def _outcome(method: str, scenario: str) -> UnlearningResult | UnlearningError:
    try:
        return _run(method, scenario)
    except UnlearningError as error:
        return error


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("method", SHORT)
def test_a_method_returns_finite_weights_that_moved_or_says_why_it_has_none(method: str, scenario: str) -> None:
    before = _weights(_parent(scenario)).clone()
    outcome = _outcome(method, scenario)
    assert torch.equal(_weights(_parent(scenario)), before), "the original is left as it was"
    if isinstance(outcome, UnlearningError):
        assert len(str(outcome).split()) > 3
        assert not isinstance(outcome, UtilityLostError) or len(outcome.history) > 1, "the epochs there were are told"
        return
    assert bool(_weights(outcome.model).isfinite().all())
    assert not all(map(torch.equal, _parent(scenario).parameters(), outcome.model.parameters()))
    assert outcome.verdict in ("completed", "utility_guard", "non_finite_guard")
    assert not outcome.model.training


@pytest.mark.parametrize(("scenario", "classes"), [("one class", ONE_CLASS), ("two classes", TWO_CLASSES)])
def test_a_class_is_unknown_to_a_retrained_model_and_the_others_are_not(
    scenario: str, classes: tuple[int, ...]
) -> None:
    model = _retrained(scenario)
    assert _accuracy(_parent(scenario), _splits(scenario).forget) > 0.9
    assert _accuracy(model, _splits(scenario).forget) == 0
    assert _accuracy(model, _test_set(scenario, classes, inside=True)) == 0
    assert _accuracy(model, _test_set(scenario, classes, inside=False)) > 0.9


@pytest.mark.parametrize("scenario", ["random 1 %", "random 50 %", "30 % of each class", "50 % of each class"])
def test_of_samples_whose_class_stays_a_retrained_model_knows_what_it_knows_of_unseen_ones(scenario: str) -> None:
    model, splits = _retrained(scenario), _splits(scenario)
    assert torch.equal(splits.retained_labels, torch.unique(splits.train.labels))
    unseen = _accuracy(model, _cut(scenario).pools["test"])
    assert abs(_accuracy(model, splits.forget) - unseen) < 0.1
    assert _accuracy(model, splits.retain) > 0.9


def test_a_share_of_each_class_is_that_share_of_each() -> None:
    for share in (0.3, 0.5):
        splits = _splits(f"{share:.0%} of each class".replace("%", " %"))
        wanted = share * torch.bincount(splits.train.labels)
        assert bool(((torch.bincount(splits.forget.labels) - wanted).abs() <= 0.5).all())


def test_a_sub_class_leaves_its_label_known_and_is_itself_known_less() -> None:
    scenario = "sub-class"
    splits, model = _splits(scenario), _retrained(scenario)
    label = SUB_CLASS // 2
    assert torch.unique(splits.forget.labels).tolist() == [label]
    assert label in splits.retained_labels
    assert _accuracy(_parent(scenario), splits.forget) > 0.9
    assert _accuracy(model, splits.forget) < 0.75
    siblings = splits.retain.take(splits.retain.labels == label)
    assert _accuracy(model, siblings) > 0.9


def _confused(model: nn.Module) -> tuple[float, float]:
    """Return ic_err and fgt_err on the test set, whose labels are right."""
    test = _cut("mislabelled").pools["test"]
    ic, fgt = confusion(TASK.predict(model, test), test.labels, _splits("mislabelled").forget.labels)
    assert ic.value is not None
    assert fgt.value is not None
    return ic.value, fgt.value


def test_mislabelled_samples_bear_the_other_label_in_the_training_set_alone() -> None:
    given, true = _splits("mislabelled"), _cut("random 1 %").pools
    at = _cut("mislabelled").forget_index
    assert set(given.forget.labels.tolist()) == set(CONFUSED)
    assert torch.equal(given.forget.labels + true["train"].labels[at], torch.full_like(at, sum(CONFUSED)))
    assert torch.equal(_cut("mislabelled").pools["test"].labels, true["test"].labels)
    rest = given.retain_index
    assert torch.equal(given.train.labels[rest], true["train"].labels[rest])


@pytest.mark.parametrize("method", ["retrain", "scrub", "finetune", "neggrad_plus"])
def test_confusion_is_at_least_halved_by_a_method_that_serves_that_purpose(method: str) -> None:
    assert "confusion" in CATALOGUE[method].purposes
    options = {"epochs": 12} if method == "finetune" else {}
    before, after = _confused(_parent("mislabelled")), _confused(_run(method, "mislabelled", **options).model)
    assert min(before) > 0.1
    assert after[0] <= before[0] / 2
    assert after[1] <= before[1] / 2


def test_scrub_with_the_papers_preset_for_confusion_lowers_it() -> None:
    options = {
        name: CATALOGUE["scrub"].config.PRESETS["confusion"][name] for name in ("epochs", "msteps", "lr_decay_epochs")
    }
    before = _confused(_parent("mislabelled"))
    after = _confused(_run("scrub", "mislabelled", preset="confusion", **options).model)
    assert after[0] < before[0]
    assert after[1] < before[1]
