"""What the plots are drawn from is what the metrics were computed on, and no more."""

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.evaluation.measure import Draws, draw_pairs
from workers.evaluation.plot_data import gather
from workers.evaluation.relearning import RelearningPlan, RelearningRuns
from workers.evaluation.relearning_curve import Curve, RelearningProfile, Target
from workers.evaluation.result import MetricResult
from workers.reproducibility import generator_for
from workers.samples import LabelledSet

LABELS = {name: torch.arange(12) % 3 for name in ("retain", "forget", "audit", "test")}
NO_SAMPLES = LabelledSet(images=torch.zeros((0, 1, 2, 2), dtype=torch.uint8), labels=torch.zeros(0, dtype=torch.int64))


def _logits(seed: int) -> dict[str, Tensor]:
    return {name: 3 * torch.randn(12, 3, generator=generator_for(seed)) for name in LABELS}


def _draws() -> Draws:
    return draw_pairs(LABELS, {}, generator=generator_for(0))


def _curve(*losses: float) -> Curve:
    rows = np.array(losses)
    return Curve(losses=rows[:, None] + np.array([-0.1, 0.1]), accuracies=np.zeros(len(rows)), path=np.zeros(len(rows)))


PLAN = RelearningPlan(
    forget=NO_SAMPLES,
    unseen=(),
    target=Target(loss=0.5, accuracy=0.9),
    parent_norm=1.0,
    rate=0.1,
    calibrated=True,
    seed=0,
    profile=RelearningProfile(max_steps=3),
)


def test_the_scores_are_those_of_the_attacks_pairs() -> None:
    logits, draws = _logits(1), _draws()
    data = gather({"unlearned": logits}, LABELS, draws, runs={}, plan=None, results={"unlearned": []})
    series = data.models["unlearned"]
    chosen, labels = logits["audit"][draws.attack.audit].double(), LABELS["audit"][draws.attack.audit]
    p = chosen.softmax(1)[torch.arange(len(labels)), labels].numpy()
    assert series.phi_unseen == pytest.approx(np.log(p / (1 - p)))
    assert series.loss_unseen == pytest.approx(-np.log(p))
    assert len(series.phi_forget) == len(series.loss_forget) == len(draws.attack)
    assert series.relearned_forget is None
    assert data.target_loss is None


def test_figures_are_those_of_the_report_and_one_without_a_value_is_none() -> None:
    results = [
        MetricResult(name="accuracy", split="test", value=0.75, ci95=(0.6, 0.9), n=12),
        MetricResult(name="accuracy", split="retain", value=float("nan"), n=12),
        MetricResult(name="mia_threshold.phi.auc", value=0.5, ci95=(0.4, 0.6), n=12),
    ]
    series = gather({}, LABELS, _draws(), runs={}, plan=None, results={"parent": results}).models["parent"]
    assert (series.auc.value, series.auc.ci95) == (0.5, (0.4, 0.6))
    assert (series.accuracy["test"].value, series.accuracy["test"].ci95) == (0.75, (0.6, 0.9))
    assert series.accuracy["retain"].value is None
    assert series.accuracy["forget"].value is None
    assert len(series.phi_forget) == 0


def test_curves_come_with_their_delays_and_a_censored_one_states_none() -> None:
    runs = RelearningRuns(forget=(_curve(1, 0.4), _curve(0.5)), unseen=(_curve(1, 1, 1, 0.9),))
    results = [
        MetricResult(name="relearning_delay", split="forget", value=0.0, n=2),
        MetricResult(name="relearning_delay", split="unseen", value=3.0, n=2, censored=True),
    ]
    data = gather({}, LABELS, _draws(), runs={"parent": runs}, plan=PLAN, results={"parent": results})
    forget, unseen = data.models["parent"].relearned_forget, data.models["parent"].relearned_unseen
    assert forget is not None
    assert unseen is not None
    assert (forget.delays, forget.reported) == ((1, 0), 0.0)
    assert forget.losses[0] == pytest.approx([1, 0.4])
    assert (unseen.delays, unseen.reported) == ((None,), None)
    assert (data.target_loss, data.max_steps) == (0.5, 3)
