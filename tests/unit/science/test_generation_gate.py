"""The gate on a generation model: its own bounds of use, the class that must not be drawn, the attack on the loss."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from service.catalogue.bounds import DEFAULT_BOUNDS, GENERATION_BOUNDS, Bound, default_bounds
from service.catalogue.metrics import METRICS
from service.catalogue.tasks import Task
from workers.evaluation.gate import Bar, judge

AUC, DRAWN = "mia_threshold.loss.auc", "generation_accuracy"


def _figure(name: str, value: float | None, ci95: Sequence[float] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "ci95": ci95, "n": 500, "verdict": "measured", **more}


def _judge(*, gone: bool = False, exact: bool = False, **changes: dict[str, Any] | None) -> dict[str, Any]:
    """Judge a report that keeps every default bound, with figures changed or left out (None)."""
    figures = {
        "loss": _figure("loss", 0.2, (0.1, 0.3), split="test"),
        "drop": _figure("generation_drop", 0.01, (-0.02, 0.04), split="retain"),
        "frechet": _figure("frechet_distance", 1.1, (0.9, 1.3), split="retain"),
        "rise": _figure("loss_rise", 0.02, (0.01, 0.03), split="test"),
        "auc": _figure(AUC, 0.51, (0.47, 0.55)),
        "ratio": _figure("relearning_ratio", 1.0, (0.9, 1.2)),
        **({"drawn": _figure(DRAWN, 0.01, (0.0, 0.03), split="forget")} if gone else {}),
        **changes,
    }
    if gone:
        figures["ratio"] = _figure("relearning_ratio", None, verdict="not_applicable", extra={"reason": "gone"})
    parent = [_figure(AUC, 0.7, (0.66, 0.74)), _figure("frechet_distance", 1.0, (0.9, 1.1), split="retain")]
    return judge(
        Bar(bounds=GENERATION_BOUNDS["privacy"], max_accuracy_drop=0.02),
        [figure for figure in figures.values() if figure],
        parent,
        exact=exact,
        planted_leak={"relearning": {"noticed": True}},
        classes_gone=[3] if gone else [],
        chance=0.1,
    )


def _of(result: dict[str, Any], metric: str) -> list[str]:
    return [bound["verdict"] for bound in result["bounds"] if bound["metric"] == metric]


@pytest.mark.parametrize("gone", [True, False])
def test_a_model_that_keeps_every_bound_passes(*, gone: bool) -> None:
    result = _judge(gone=gone)
    assert result["verdict"] == "pass"
    assert _of(result, DRAWN) == ["pass" if gone else "not_applicable"]
    assert "not shown by any bound" not in result["sentence"]


def test_a_class_that_is_still_drawn_fails() -> None:
    result = _judge(gone=True, drawn=_figure(DRAWN, 0.6, (0.5, 0.7), split="forget"))
    assert result["verdict"] == "fail"
    assert _of(result, DRAWN) == ["fail"]
    assert _of(result, "relearning_ratio") == ["fail"]


def test_a_class_that_the_classifier_does_not_know_is_not_taken_for_forgotten() -> None:
    result = _judge(gone=True, drawn=_figure(DRAWN, 0.0, (0.0, 0.02), split="forget", verdict="inconclusive"))
    assert result["verdict"] == "inconclusive"


@pytest.mark.parametrize(
    "change",
    [
        {"frechet": _figure("frechet_distance", 2.0, (1.8, 2.2), split="retain")},
        {"rise": _figure("loss_rise", 0.2, (0.15, 0.25), split="test")},
        {"auc": _figure(AUC, 0.64, (0.6, 0.68))},
        {"auc": _figure(AUC, 0.36, (0.32, 0.4))},
        {"ratio": _figure("relearning_ratio", 0.3, (0.2, 0.4))},
    ],
)
def test_one_bound_missed_fails(change: dict[str, Any]) -> None:
    assert _judge(**change)["verdict"] == "fail"


def test_images_lost_beyond_doubt_stop_even_exact_retraining() -> None:
    result = _judge(exact=True, drop=_figure("generation_drop", 0.2, (0.15, 0.25), split="retain"))
    assert result["breaker"]
    assert result["verdict"] == "fail"
    assert "recognised images" in result["sentence"]


def test_the_loss_of_a_ruined_model_is_no_number_and_never_passes() -> None:
    assert _judge(loss=_figure("loss", None, split="test"))["verdict"] == "inconclusive"


def test_each_task_has_bounds_on_its_own_metrics_for_every_purpose() -> None:
    for task in Task:
        for purpose in DEFAULT_BOUNDS:
            assert all(task in METRICS[bound.metric].tasks for bound in default_bounds(task, purpose)), (task, purpose)


def test_a_band_by_size_is_for_the_attacks_that_gate() -> None:
    assert Bound(metric=AUC, within="by_size").within == "by_size"
    with pytest.raises(ValidationError, match="by_size is for"):
        Bound(metric="mia_threshold.entropy.auc", within="by_size")
