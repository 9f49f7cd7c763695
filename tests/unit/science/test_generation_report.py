"""The report of a generation model: the form of every report, its own figures, and a gate that can rule on it."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from service.catalogue.metrics import METRICS as CATALOGUE
from service.catalogue.metrics.ranges import splits_of
from service.catalogue.tasks import Task
from service.schemas.report_figures import (
    ClassifierOut,
    ControlsOut,
    GenerationCurvesOut,
    MetricOut,
    PlantedLeakOut,
    RequestFigureOut,
    SamplingOut,
)
from tests.unit.science.generation_world import CLASSES, network, short, world
from workers.diffusion import Diffusion
from workers.evaluation.earlier import EarlierSet
from workers.evaluation.generation import relearning
from workers.evaluation.generation.report import evaluate_generation
from workers.evaluation.generation.stage import Measured, measure, results_of, stage_for
from workers.evaluation.plots import draw
from workers.evaluation.plots.data import PlotData
from workers.evaluation.relearning_curve import Target
from workers.evaluation.report import EvaluationSplits

Figures = dict[tuple[str, str | None], dict[str, Any]]


@cache
def _told(*, whole_class: bool) -> tuple[str, PlotData]:
    parent, retrained, splits = world(whole_class=whole_class)
    plots: list[PlotData] = []
    report = evaluate_generation(
        parent=parent,
        unlearned=retrained,
        retrained=retrained,
        splits=splits,
        num_classes=CLASSES,
        seed=0,
        groups={"a": torch.arange(6), "b": torch.arange(6, 12)},
        earlier=[
            EarlierSet(evaluation_id="evl_1", num_samples=9, samples=splits.forget),
            EarlierSet(evaluation_id="evl_0", num_samples=3, samples=None),
        ],
        plot=plots.append,
        profile=short(seeds=1 if whole_class else 2),
    )
    return json.dumps(report, allow_nan=False), plots[0]


def _report(*, whole_class: bool) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(_told(whole_class=whole_class)[0])
    return loaded


def _figures(rows: list[dict[str, Any]]) -> Figures:
    return {(row["name"], row.get("split")): row for row in rows}


@pytest.mark.parametrize("whole_class", [True, False])
def test_every_metric_of_the_task_is_there_with_its_splits_and_no_other(*, whole_class: bool) -> None:
    found = _figures(_report(whole_class=whole_class)["metrics"])
    wanted = {
        name
        for name, spec in CATALOGUE.items()
        if Task.GENERATION in spec.tasks and spec.when in ("always", "retrained", "inception weights")
    }
    assert {name for name, _ in found} == wanted
    for name in wanted - {"generation_accuracy"}:
        assert {split for other, split in found if other == name} == set(splits_of(name) or (None,)), name


def test_a_class_that_is_gone_is_drawn_and_counted_apart() -> None:
    report = _report(whole_class=True)
    found = _figures(report["metrics"])
    assert found["generation_accuracy", "forget"]["n"] == 9
    assert found["generation_accuracy", "retain"]["n"] == 48
    assert [found["generation_accuracy", split]["direction"] for split in ("forget", "retain")] == ["lower", "higher"]
    assert report["sampling"]["forget"] == {"classes": [2], "images": 9}
    assert report["sampling"]["retain"] == {"classes": [0, 1], "images": 48}
    assert found["relearning_ratio", None]["verdict"] == "not_applicable"
    for name in ("anamnesis", "relearning_adam.anamnesis"):
        told = found[name, None]["extra"]
        assert told["unlearned_per_seed"] == told["retrained_per_seed"], "one model stands in both places"


def test_among_random_samples_no_class_is_gone_and_controls_are_the_yardstick() -> None:
    found = _figures(_report(whole_class=False)["metrics"])
    assert ("generation_accuracy", "forget") not in found
    assert found["relearning_ratio", None]["verdict"] != "not_applicable"
    assert found["relearning_adam.ratio", None]["verdict"] != "not_applicable"


def test_the_parent_has_lost_nothing_and_knows_its_forget_set() -> None:
    found = _figures(_report(whole_class=False)["parent_metrics"])
    assert found["generation_drop", "retain"]["value"] == 0
    assert found["loss_rise", "test"]["value"] == 0
    assert found["weight_distance", None]["value"] == 0
    assert found["relearning_delay", "forget"]["value"] == 0
    assert found["relearning_adam.delay", "forget"]["value"] == 0


def test_the_classifier_and_what_it_cannot_say_are_disclosed() -> None:
    report = _report(whole_class=True)
    assert report["classifier"]["accuracy"] >= 0.9
    assert report["classifier"]["n"] == 30
    assert any("not FID" in line for line in report["does_not_prove"])
    assert any("one small classifier" in line for line in report["does_not_prove"])


@pytest.mark.parametrize(
    ("part", "schema"),
    [
        ("curves", GenerationCurvesOut),
        ("classifier", ClassifierOut),
        ("sampling", SamplingOut),
        ("controls", ControlsOut),
        ("planted_leak", PlantedLeakOut),
    ],
)
def test_what_is_its_own_is_described_where_reports_are(part: str, schema: type[BaseModel]) -> None:
    told = _report(whole_class=False)[part]
    schema.model_validate(told)
    assert set(told) <= set(schema.model_fields)


def test_rows_of_requests_and_metrics_are_described() -> None:
    report = _report(whole_class=False)
    for row in report["per_request"]:
        assert RequestFigureOut.model_validate(row).loss_auc == row["mia_threshold.loss.auc"]
    for row in report["metrics"]:
        MetricOut.model_validate(row)


def test_requests_and_earlier_sets_are_attacked_on_the_loss() -> None:
    report = _report(whole_class=False)
    assert [row["request"] for row in report["per_request"]] == ["a", "b"]
    assert all(0 <= row["mia_threshold.loss.auc"] <= 1 for row in report["per_request"])
    again, gone = report["earlier_forget_sets"]
    assert {metric["name"] for metric in again["metrics"]} == {"loss", "mia_threshold.loss.auc"}
    assert (gone["state"], gone["metrics"]) == ("data_gone", [])
    assert report["planted_leak"]["name"] == "mia_threshold.loss.auc"


def test_curves_of_both_optimisers_are_kept_of_every_model() -> None:
    curves = _report(whole_class=False)["curves"]
    for part in (curves, curves["adam"]):
        assert len(part["unlearned"]["forget"]) == len(part["parent"]["unseen"]) == 2
        assert part["retrained"]["forget"][0]["loss"][0] > 0


def test_equal_seeds_measure_equally() -> None:
    parent, _, splits = world(whole_class=True)

    def measured() -> Measured:
        stage = stage_for(parent, splits, num_classes=CLASSES, seed=3, groups={}, profile=short(seeds=1))
        return measure(parent, stage, who="parent")

    first, second = measured(), measured()
    assert all(np.array_equal(first.losses[name], second.losses[name]) for name in first.losses)
    assert first.drawn is not None
    assert second.drawn is not None
    assert np.array_equal(first.drawn.features, second.drawn.features)
    assert first.runs is not None
    assert second.runs is not None
    for rule in first.runs:
        assert np.array_equal(first.runs[rule].forget[0].losses, second.runs[rule].forget[0].losses)


def test_without_pools_to_learn_from_nothing_is_said_of_images_and_the_rest_is_measured() -> None:
    parent, retrained, whole = world(whole_class=False)
    splits = EvaluationSplits(retain=whole.retain, forget=whole.forget, audit=whole.audit, test=whole.test)
    report = evaluate_generation(
        parent=parent, unlearned=retrained, splits=splits, num_classes=CLASSES, seed=0, profile=short(seeds=1)
    )
    found = _figures(report["metrics"])
    assert found["frechet_distance", "retain"]["verdict"] == "not_applicable"
    assert found["mia_threshold.loss.auc", None]["value"] is not None
    assert report["classifier"] is None


def test_images_of_a_model_that_is_told_no_class_are_not_held_against_one() -> None:
    _, _, splits = world(whole_class=False)
    model = network(told=False)
    stage = stage_for(model, splits, num_classes=CLASSES, seed=0, groups={}, profile=short(seeds=1))
    ours = measure(model, stage, who="parent")
    found = {result.name: result for result in results_of(ours, stage, before=ours, model=model, parent=model)}
    assert found["generation_accuracy"].verdict == found["generation_drop"].verdict == "not_applicable"
    assert found["frechet_distance"].verdict == "measured"


def test_of_a_large_retain_set_some_are_read_and_its_classes_stay_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.evaluation.generation.stage.MOST_RETAINED", 10)
    parent, _, whole = world(whole_class=False)
    none = whole.audit.take(torch.arange(0))
    splits = replace(whole, audit=none, recognition=None)
    stage = stage_for(parent, splits, num_classes=CLASSES, seed=0, groups={})
    assert len(stage.splits.retain) == 10
    assert stage.labels["retained"].tolist() == [0, 1, 2]


def test_without_controls_relearning_and_the_attack_do_not_apply() -> None:
    parent, retrained, whole = world(whole_class=False)
    none = whole.audit.take(torch.arange(0))
    splits = EvaluationSplits(retain=whole.retain, forget=whole.forget, audit=none, test=none, recognition=none)
    report = evaluate_generation(
        parent=parent, unlearned=retrained, splits=splits, num_classes=CLASSES, seed=0, profile=short(seeds=1)
    )
    found = _figures(report["metrics"])
    assert found["mia_threshold.loss.auc", None]["verdict"] == "not_applicable"
    assert found["relearning_adam.ratio", None]["verdict"] == "not_applicable"
    assert report["curves"] == {}
    json.dumps(report, allow_nan=False)


def test_a_model_given_is_not_changed_by_relearning_and_its_copy_starts_from_the_average() -> None:
    parent, _, splits = world(whole_class=True)
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    curve = relearning.relearn(
        parent,
        splits.forget,
        rate=0.003,
        target=Target(loss=0.0, accuracy=1.0),
        cap=5,
        seed=0,
        batch_size=8,
        optimizer="adam",
        draws_of=3,
    )
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())
    assert len(curve.path) == 6
    read = Diffusion(seed=3, measured_draws=relearning.READ_DRAWS).measured_losses(parent, splits.forget)
    assert curve.mean_losses[0] == pytest.approx(float(read.mean()), rel=1e-5)


def test_relearning_lowers_the_loss_of_a_class_that_was_never_seen() -> None:
    _, retrained, splits = world(whole_class=True)
    curve = relearning.relearn(
        retrained,
        splits.forget,
        rate=0.003,
        target=Target(loss=0.0, accuracy=1.0),
        cap=12,
        seed=0,
        batch_size=16,
        optimizer="adam",
        draws_of=0,
    )
    assert curve.mean_losses[-1] < 0.9 * curve.mean_losses[0]


def test_the_plots_show_what_was_drawn_in_place_of_accuracies() -> None:
    data = _told(whole_class=True)[1]
    plots = draw(data)
    assert set(plots) == {"attack_roc", "loss_histograms", "relearning_curves", "sample_grids"}
    assert "2 (forgotten)" in plots["sample_grids"]
    assert "minus the loss" in plots["attack_roc"]
    assert "alone by SGD" in plots["relearning_curves"]
    assert "see the accuracies" not in plots["relearning_curves"]
    assert "mean squared error" in plots["loss_histograms"]
