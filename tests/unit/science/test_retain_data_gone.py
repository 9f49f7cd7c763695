"""Splits without any retain sample: what they still say, what they refuse, and how a run is watched on them."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from service.catalogue.methods import FinetuneConfig
from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning.finetune import finetune
from workers.unlearning.interface import (
    InvalidSplitsError,
    RetainSetGoneError,
    Surroundings,
    UnlearningError,
    UnlearningSplits,
)
from workers.unlearning.selection import EpochRecord, Terms, first_forgotten
from workers.unlearning.trajectory import POOL_FIELDS, Trajectory, follow

LABELS = torch.tensor([0, 0, 1, 1])


def _samples(labels: Tensor) -> LabelledSet:
    return LabelledSet(images=torch.zeros(len(labels), 1, 1, 2, dtype=torch.uint8), labels=labels)


def _splits(retained: list[int], pool: Tensor | None = None) -> UnlearningSplits:
    selection = _samples(torch.zeros(0, dtype=torch.int64) if pool is None else pool)
    return UnlearningSplits.forget_only(_samples(LABELS), selection, retained_labels=torch.tensor(retained))


def _net(biases: Sequence[float] = (0.0, 0.0, 0.0)) -> nn.Sequential:
    """Return a net whose logits are its biases, whatever the image."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 3)).eval()
    _say(net, biases)
    return net


def _say(net: nn.Module, biases: Sequence[float]) -> None:
    weight, bias = net.parameters()
    with torch.no_grad():
        weight.zero_()
        bias.copy_(torch.tensor(biases))


def _around() -> Surroundings:
    return Surroundings(
        task=Classification(), recipe=Recipe(), build_model=lambda _: _net(), generator=generator_for(0)
    )


def test_the_forget_set_is_there_and_the_retain_set_is_told_to_be_gone() -> None:
    splits = _splits([2, 0, 2])
    assert splits.forget.labels.tolist() == LABELS.tolist()
    assert splits.retained_labels.tolist() == [0, 2]
    with pytest.raises(RetainSetGoneError, match="retain set is gone"):
        _ = splits.retain


def test_a_method_that_needs_the_retain_set_ends_with_a_verdict_the_ladder_knows() -> None:
    with pytest.raises(UnlearningError, match="retain set is gone"):
        finetune(_net(), _splits([2]), FinetuneConfig(), around=_around())


def test_an_empty_forget_set_is_refused_here_too() -> None:
    nothing = _samples(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(InvalidSplitsError):
        UnlearningSplits.forget_only(nothing, nothing, retained_labels=torch.tensor([0]))


def test_the_labels_that_stay_are_those_of_the_retain_set_where_it_is_there() -> None:
    train = _samples(torch.tensor([2, 0, 1, 1, 0]))
    splits = UnlearningSplits(train=train, forget_index=torch.tensor([0, 2]), selection=train)
    assert splits.retained_labels.tolist() == [0, 1]


def test_the_floor_counts_the_labels_said_to_stay() -> None:
    net = _net([0.0, 1.0, 0.0])
    pool = torch.tensor([0, 0, 1, 1, 1, 2])
    assert Trajectory(net, _splits([1], pool), _around()).records[0].selection_accuracy == 1
    assert Trajectory(net, _splits([2], pool), _around()).records[0].selection_accuracy == 0
    assert Trajectory(net, _splits([2], pool), _around()).terms.all_gone
    assert not Trajectory(net, _splits([1, 2], pool), _around()).terms.all_gone


def test_without_a_pool_there_is_no_floor_and_the_history_claims_nothing_about_it() -> None:
    net = _net()
    trajectory = Trajectory(net, _splits([2]), _around())

    def epochs() -> Iterator[dict[str, float]]:
        for value in (1e3, 2e3):
            _say(net, [0.0, 0.0, value])
            yield {"loss": value}

    verdict = follow(net, epochs(), trajectory, 0)
    result = trajectory.result(net, first_forgotten, verdict, 0.0)
    assert result.selection["epoch"] == 1
    assert result.selection["accuracy_floor"] is None
    assert all(row[name] is None for row in result.history for name in POOL_FIELDS)
    assert json.loads(json.dumps(result.history, allow_nan=False)) == list(result.history)


def _record(epoch: int, loss: float, error: float = 0.0) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        forget_error=error,
        forget_loss=loss,
        reference_error=0.0,
        reference_loss=0.0,
        selection_accuracy=1.0,
        selection_loss=0.0,
    )


def _first(records: list[EpochRecord], *, all_gone: bool = False) -> tuple[int, bool]:
    terms = Terms(floor=-math.inf, comfortable=-math.inf, forget_count=9, reference_count=0, all_gone=all_gone)
    choice = first_forgotten(records, terms)
    return choice.epoch, choice.boundary


def test_the_first_epoch_whose_loss_no_longer_counts_as_known_is_taken() -> None:
    records = [_record(0, 0.0), _record(1, 0.03), _record(2, 0.2), _record(3, 9.0)]
    assert _first(records) == (2, False)


def test_where_none_has_forgotten_the_nearest_is_taken_and_flagged() -> None:
    assert _first([_record(0, 0.0), _record(1, 0.03), _record(2, 0.02)]) == (1, True)


def test_among_those_that_have_forgotten_the_pools_loss_goes_before_the_order() -> None:
    records = [_record(0, 0.0), replace(_record(1, 0.3), selection_loss=0.2), _record(2, 0.2), _record(3, 0.2)]
    assert _first(records) == (2, False)


def test_of_a_class_that_is_gone_nearly_all_must_be_wrong_too() -> None:
    records = [
        _record(0, 0.0),
        _record(1, 0.2, 0.1),
        _record(2, 0.9, 0.97),
        _record(3, 9.0, 0.99),
        _record(4, 9.0, 1.0),
    ]
    assert _first(records, all_gone=True) == (3, False)
    assert _first(records[:3], all_gone=True) == (2, True)
