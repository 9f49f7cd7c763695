"""Accuracy, loss, drops and distances on logits whose answers are known."""

import json
import math

import pytest
import torch
from torch import nn

from workers.evaluation.result import MetricResult
from workers.evaluation.utility import accuracy_and_loss, utility, weight_distance


def _sure(classes: list[int], k: int = 3) -> torch.Tensor:
    return 10.0 * nn.functional.one_hot(torch.tensor(classes), k).float()


def test_accuracy_and_loss_of_known_logits() -> None:
    accuracy, loss = accuracy_and_loss("test", torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))
    assert accuracy.value == 0.75
    assert loss.value == pytest.approx(math.log(2))
    assert (accuracy.split, accuracy.n) == ("test", 4)


def test_an_empty_split_is_not_applicable() -> None:
    results = accuracy_and_loss("unseen", torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert [result.verdict for result in results] == ["not_applicable", "not_applicable"]


def test_a_forgotten_class_does_not_count_as_lost_utility() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    before, after = _sure([0, 0, 1, 1, 2, 2]), _sure([0, 0, 1, 0, 0, 0])
    drop, worst, disagreement = utility(before, after, labels, torch.tensor([0, 1]))
    assert drop.value == pytest.approx(1 / 4)
    assert drop.n == 4
    assert drop.extra == {"parent_accuracy": 1.0, "accuracy": 0.75}
    assert worst.value == pytest.approx(1 / 2)
    assert worst.extra == {"class": 1, "per_class": {0: 0.0, 1: 0.5}}
    assert disagreement.value == pytest.approx(3 / 6)


def test_with_no_class_left_only_disagreement_is_measured() -> None:
    labels = torch.tensor([0, 1])
    results = utility(_sure([0, 1]), _sure([1, 1]), labels, torch.zeros(0, dtype=torch.int64))
    assert [r.verdict for r in results] == ["not_applicable", "not_applicable", "measured"]
    assert results[2].value == 0.5


def test_an_empty_test_set_is_not_applicable() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    results = utility(torch.zeros(0, 2), torch.zeros(0, 2), none, torch.tensor([0]))
    assert {result.verdict for result in results} == {"not_applicable"}


def test_weight_distance_is_relative_to_the_parent_and_keeps_buffers_apart() -> None:
    parent, unlearned = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    with torch.no_grad():
        unlearned.weight.mul_(1.5)
        unlearned.running_var.mul_(3.0)  # type: ignore[union-attr]
    result = weight_distance(parent, unlearned)
    assert result.value == pytest.approx(0.5)
    assert result.extra == {"buffers": pytest.approx(2.0)}


def test_a_result_never_shows_a_number_json_lacks() -> None:
    shown = MetricResult(
        name="loss", split="test", value=math.nan, ci95=(math.nan, math.inf), n=1, extra={"a": [math.inf, {1: 2.0}]}
    ).to_dict()
    json.dumps(shown, allow_nan=False)
    assert shown["value"] is None
    assert shown["verdict"] == "inconclusive"
    assert "ci95" not in shown
    assert shown["extra"] == {"a": [None, {"1": 2.0}]}


def test_a_result_takes_basis_and_direction_from_the_catalogue() -> None:
    shown = MetricResult(name="accuracy", split="test", value=0.5, ci95=(0.4, 0.6), n=9).to_dict()
    assert shown == {
        "name": "accuracy",
        "split": "test",
        "value": 0.5,
        "ci95": [0.4, 0.6],
        "n": 9,
        "verdict": "measured",
        "seconds": 0.0,
        "direction": "higher",
        "ideal": 1.0,
        "basis": "none",
    }


def test_an_unknown_metric_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(ValueError, match="relearning_ratio"):
        MetricResult(name="magic", value=1.0, n=1)
