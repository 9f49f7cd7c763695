"""What no method can work on: refused before the work with a reason, in a form that lets the ladder go on."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from service.catalogue.methods import METHODS as CATALOGUE
from service.catalogue.recipe import Recipe
from tests.method_cases import samples
from workers.classification import Classification
from workers.evaluation.report import EvaluationSplits
from workers.pipeline import ModelSpec, build_model, erase
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning import METHODS
from workers.unlearning.interface import InvalidSplitsError, Surroundings, UnlearningError, UnlearningSplits

SPEC = ModelSpec(
    architecture="small_cnn",
    options={"width": 4},
    image_shape=(1, 8, 8),
    num_classes=3,
    recipe=Recipe(epochs=2, seed=0),
)
APPROXIMATE = sorted(name for name, spec in CATALOGUE.items() if spec.guarantee == "approximate")


def _samples(n: int, seed: int, *, classes: int = 3) -> LabelledSet:
    return samples(n, seed, shape=(1, 8, 8), classes=classes)


def _splits(train: LabelledSet, forget: list[int], selection: LabelledSet | None = None) -> UnlearningSplits:
    pool = _samples(30, 1) if selection is None else selection
    return UnlearningSplits(train=train, forget_index=torch.tensor(forget), selection=pool)


def _parent(*, broken: str | None = None) -> nn.Module:
    model = build_model(SPEC).eval()
    if broken is not None:
        with torch.no_grad():
            model.state_dict()[broken].view(-1)[0] = torch.nan
    return model


def _erase(method: str, splits: UnlearningSplits, parent: nn.Module, audit: LabelledSet | None = None) -> Any:
    held_out = _samples(30, 2) if audit is None else audit
    sets = EvaluationSplits(retain=splits.retain, forget=splits.forget, audit=held_out, test=_samples(30, 2))
    return erase(SPEC, parent, splits, sets, method=method, seed=0, max_accuracy_drop=1.0)


def _called_alone(method: str, splits: UnlearningSplits, parent: nn.Module) -> nn.Module:
    around = Surroundings(
        task=Classification(),
        recipe=SPEC.recipe,
        build_model=lambda seed: build_model(SPEC, seed),
        generator=generator_for(0),
        max_accuracy_drop=1.0,
    )
    return METHODS[method](parent, splits, CATALOGUE[method].config(), around=around).model


def _floats(model: nn.Module) -> list[str]:
    return [name for name, value in model.state_dict().items() if value.is_floating_point()]


@pytest.mark.parametrize("method", APPROXIMATE)
def test_an_original_with_a_weight_or_buffer_that_is_no_number_is_refused_by_its_name(method: str) -> None:
    first, *_, last = _floats(_parent())
    for broken in (first, last):
        with pytest.raises(UnlearningError, match=f"not finite, in '{broken}': only an exact method"):
            _erase(method, _splits(_samples(60, 0), [0, 1, 2]), _parent(broken=broken))


def test_of_many_broken_tensors_five_are_named() -> None:
    model = _parent()
    for weight in model.parameters():
        nn.init.constant_(weight, torch.inf)
    with pytest.raises(UnlearningError) as refusal:
        _erase("finetune", _splits(_samples(60, 0), [0]), model)
    assert str(refusal.value).count("'") == 10
    assert "…" in str(refusal.value)


@pytest.mark.parametrize("method", APPROXIMATE)
def test_a_method_called_alone_on_such_an_original_ends_with_a_verdict_of_unlearning(method: str) -> None:
    with pytest.raises(UnlearningError):
        _called_alone(method, _splits(_samples(60, 0), [0, 1, 2]), _parent(broken=_floats(_parent())[0]))


def test_retraining_does_not_read_the_originals_weights_and_works_without_them() -> None:
    model, report = _erase("retrain", _splits(_samples(60, 0), [0, 1, 2]), _parent(broken=_floats(_parent())[0]))
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    figures = {(row["name"], row.get("split")): row for row in report["metrics"]}
    assert figures["accuracy", "retain"]["value"] is not None


@pytest.mark.parametrize("label", [-1, 3, 9])
@pytest.mark.parametrize("method", ["finetune", "retrain", "mu_mis"])
def test_a_class_the_network_does_not_have_is_refused_before_the_work(method: str, label: int) -> None:
    train = _samples(60, 0)
    train.labels[7] = label
    with pytest.raises(InvalidSplitsError, match=rf"classes 0 to 2, .*\[{label}\]"):
        _erase(method, _splits(train, [7]), _parent())


@pytest.mark.parametrize("method", sorted(CATALOGUE))
def test_a_forgotten_class_that_no_pool_has_is_no_fault(method: str) -> None:
    """The attacks then say that they had nothing to compare with; the method completes or gives its verdict."""
    two = _samples(30, 1, classes=2)
    splits = _splits(_samples(60, 0), [2, 5, 8], selection=two)
    try:
        _, report = _erase(method, splits, _parent(), audit=two)
    except UnlearningError as error:
        told = str(error)
        assert len(told.split()) > 3
        return
    figures = {row["name"]: row for row in report["metrics"]}
    assert figures["mia_threshold.phi.auc"]["verdict"] == "not_applicable"
    assert figures["relearning_ratio"]["verdict"] == "not_applicable"


@pytest.mark.parametrize("method", sorted(CATALOGUE))
def test_one_class_alone_to_learn_from_or_to_be_left_is_no_fault(method: str) -> None:
    every = _samples(24, 0)
    one_class = LabelledSet(images=every.images, labels=torch.zeros_like(every.labels))
    one_left = (every.labels > 0).nonzero().squeeze(1).tolist()
    for splits in (_splits(one_class, [0, 1, 2]), _splits(every, one_left)):
        try:
            model = _called_alone(method, splits, _parent())
        except UnlearningError as error:
            told = str(error)
            assert len(told.split()) > 3
        else:
            assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@pytest.mark.parametrize("method", sorted(CATALOGUE))
def test_a_method_that_needs_retained_samples_of_each_forgotten_class_refuses_a_whole_class(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = _samples(60, 0)
    monkeypatch.setitem(CATALOGUE, method, replace(CATALOGUE[method], needs_in_class_retain=True))
    with pytest.raises(UnlearningError, match=rf"{method} needs retained samples .*\[1\]"):
        _erase(method, _splits(every, (every.labels == 1).nonzero().squeeze(1).tolist()), _parent())
