"""The report: one small world measured whole, and the edge cases of its splits."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from service.catalogue.metrics import METRICS as CATALOGUE
from service.catalogue.metrics.ranges import splits_of
from service.catalogue.recipe import Recipe
from service.catalogue.tasks import Task
from workers.classification import Classification
from workers.evaluation import METRICS
from workers.evaluation.plots.data import PlotData
from workers.evaluation.relearning_curve import RelearningProfile
from workers.evaluation.report import EvaluationSplits, evaluate
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.training import train

TASK = Classification()
SPECS = [spec for spec in CATALOGUE.values() if Task.CLASSIFICATION in spec.tasks]
RECIPE = Recipe(epochs=40, batch_size=64, lr=0.1)


class CountingTask(Classification):
    """Count the samples predicted."""

    seen = 0

    def predict(self, model: nn.Module, samples: LabelledSet, batch_size: int = 512) -> torch.Tensor:
        CountingTask.seen += len(samples)
        return super().predict(model, samples, batch_size)


@pytest.fixture(autouse=True)
def short_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.evaluation.measure.DEFAULT_PROFILE", RelearningProfile(max_steps=40))


def _blobs(n: int, seed: int) -> LabelledSet:
    """Return images whose mean grey tells the class, under noise that hides it for some."""
    generator = generator_for(seed)
    labels = torch.arange(n) % 3
    grey = 64.0 + 64 * labels[:, None, None, None] + 110 * torch.randn(n, 1, 4, 4, generator=generator)
    return LabelledSet(images=grey.clamp(0, 255).to(torch.uint8), labels=labels)


def _net(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 3))


def _trained(samples: LabelledSet, seed: int) -> nn.Module:
    model = _net(seed)
    train(model, samples, RECIPE, task=TASK, generator=generator_for(seed))
    return model


@cache
def _world() -> tuple[nn.Module, nn.Module, EvaluationSplits]:
    samples, held_out = _blobs(240, 0), _blobs(180, 1)
    forget, retain = samples.take(torch.arange(60)), samples.take(torch.arange(60, 240))
    splits = EvaluationSplits(retain=retain, forget=forget, audit=held_out.take(torch.arange(120)), test=held_out)
    return _trained(samples, 0), _trained(retain, 1), splits


def _replaced(splits: EvaluationSplits, **changes: LabelledSet) -> EvaluationSplits:
    names = ("retain", "forget", "audit", "test")
    return EvaluationSplits(**{name: changes.get(name, getattr(splits, name)) for name in names})


def _report(splits: EvaluationSplits | None = None, **changes: Any) -> dict[str, Any]:
    parent, unlearned, whole = _world()
    given = {"parent": parent, "unlearned": unlearned, "splits": splits or whole, "task": TASK, "seed": 0}
    return evaluate(**{**given, **changes})


@cache
def _standard_text() -> str:
    return json.dumps(_report(groups={"a": torch.arange(40), "b": torch.tensor([41])}), allow_nan=False)


@pytest.fixture
def standard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(_standard_text())
    return loaded


def _figures(rows: list[dict[str, Any]]) -> dict[tuple[str, str | None], dict[str, Any]]:
    return {(row["name"], row.get("split")): row for row in rows}


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in ("seconds", "durations")}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def test_the_catalogue_and_the_functions_have_the_same_families() -> None:
    assert {spec.family for spec in CATALOGUE.values()} == set(METRICS)


def test_a_report_holds_every_metric_that_needs_nothing_prepared_and_no_other(standard: dict[str, Any]) -> None:
    expected = {spec.id for spec in SPECS if spec.when == "always"}
    assert {row["name"] for row in standard["metrics"]} == expected


def test_without_a_retrained_model_one_place_says_so(standard: dict[str, Any]) -> None:
    assert standard["retrained_metrics"] is None
    assert not [row for row in standard["metrics"] if row["basis"] == "retrained"]
    assert "retrained" not in standard["curves"]


def test_beside_a_retrained_model_stands_every_comparison_and_the_rest_stays_as_it_was() -> None:
    parent, unlearned, _ = _world()
    with_one, without = _report(retrained=unlearned, unlearned=parent), _report(unlearned=parent)
    compared = [row for row in with_one["metrics"] if row["basis"] == "retrained"]
    assert {row["name"] for row in compared} == {spec.id for spec in SPECS if spec.when == "retrained"}
    assert {row["verdict"] for row in compared} == {"measured"}
    rest = [row for row in with_one["metrics"] if row["basis"] != "retrained"]
    assert _without_times(rest) == _without_times(without["metrics"])
    assert _without_times(with_one["parent_metrics"]) == _without_times(without["parent_metrics"])
    assert _without_times(with_one["retrained_metrics"]) == _without_times(_report()["metrics"])
    assert len(with_one["curves"]["retrained"]["forget"]) == len(with_one["curves"]["parent"]["forget"])


def test_a_model_against_itself_differs_in_nothing() -> None:
    _, unlearned, _ = _world()
    figures = _figures(_report(retrained=unlearned)["metrics"])
    none, all_of_it = ("avg_gap", "avg_gap_with_mia", "js_divergence"), ("tow", "prediction_agreement", "anamnesis")
    found = {name: row["value"] for (name, _), row in figures.items() if row["basis"] == "retrained"}
    assert found == {**dict.fromkeys(none, 0.0), **dict.fromkeys(all_of_it, 1.0)}


def test_the_original_is_farther_from_a_retrained_model_than_another_retrained_one_is() -> None:
    parent, retrained, splits = _world()
    another = _trained(splits.retain, 2)
    near, far = (_figures(_report(retrained=retrained, unlearned=model)["metrics"]) for model in (another, parent))
    for name, split in (("avg_gap", None), ("avg_gap_with_mia", None), ("js_divergence", "forget")):
        assert near[name, split]["value"] < far[name, split]["value"]
    assert near["tow", None]["value"] > far["tow", None]["value"]


def test_the_plots_show_the_retrained_model_too() -> None:
    drawn: list[PlotData] = []
    _report(retrained=_world()[1], plot=drawn.append)
    assert list(drawn[0].models) == ["parent", "unlearned", "retrained"]
    assert drawn[0].models["retrained"].relearned_forget is not None


def test_both_models_are_measured_alike(standard: dict[str, Any]) -> None:
    ours, parents = _figures(standard["metrics"]), _figures(standard["parent_metrics"])
    assert list(ours) == list(parents)
    assert len(ours) == len(standard["metrics"])
    for name in ("accuracy", "loss"):
        assert {split for key, split in ours if key == name} == {"retain", "forget", "unseen", "test"}


def test_figures_stand_on_the_splits_that_bounds_may_name(standard: dict[str, Any]) -> None:
    found: dict[str, set[str | None]] = {}
    for row in standard["metrics"]:
        found.setdefault(row["name"], set()).add(row.get("split"))
    assert found == {name: {*(splits_of(name) or (None,))} for name in found}


def test_every_figure_has_the_fields_of_the_contract(standard: dict[str, Any]) -> None:
    always = {"name", "value", "n", "direction", "ideal", "basis", "verdict", "seconds"}
    optional = {"split", "ci95", "threshold", "censored", "extra"}
    for row in standard["metrics"]:
        assert always <= set(row) <= always | optional
        assert row["verdict"] in {"measured", "inconclusive", "not_applicable"}
        if "ci95" in row:
            assert row["ci95"][0] <= row["ci95"][1]


def test_the_planted_leak_is_noticed_and_retraining_mends_it(standard: dict[str, Any]) -> None:
    leak, ours = standard["planted_leak"], _figures(standard["metrics"])["mia_threshold.phi.auc", None]
    assert leak["noticed"]
    assert leak["relearning"]["noticed"]
    assert leak["value"] > 0.65
    assert ours["ci95"][0] <= 0.5 <= ours["ci95"][1]


def test_nothing_is_noticed_on_a_parent_that_never_saw_the_set() -> None:
    leak = _report(parent=_world()[1])["planted_leak"]
    assert not leak["noticed"]
    assert not leak["relearning"]["noticed"]


def test_the_parent_relearns_nothing_and_loses_nothing(standard: dict[str, Any]) -> None:
    parents = _figures(standard["parent_metrics"])
    assert parents["relearning_delay", "forget"]["value"] == 0
    assert parents["relearning_delay", "unseen"]["value"] > 0
    assert parents["weight_distance", None]["value"] == 0
    assert parents["utility_drop", "test"]["value"] == 0


def test_a_model_that_did_not_change_is_as_the_parent() -> None:
    parent, _, _ = _world()
    report = _report(unlearned=parent)
    assert _without_times(report["metrics"]) == _without_times(report["parent_metrics"])
    assert _figures(report["metrics"])["relearning_delay", "forget"]["value"] == 0


def test_equal_seeds_give_equal_reports_and_leave_models_and_data_alone() -> None:
    parent, unlearned, splits = _world()
    retrained = _trained(splits.retain, 3)
    tensors = [*retrained.state_dict().values(), *parent.state_dict().values(), *unlearned.state_dict().values()]
    tensors += [t for s in (splits.retain, splits.forget, splits.audit, splits.test) for t in (s.images, s.labels)]
    before = [tensor.clone() for tensor in tensors]
    twice = [_without_times(_report(seed=4, retrained=retrained)) for _ in range(2)]
    assert twice[0] == twice[1]
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))


def test_requests_are_told_apart_only_when_there_are_several(standard: dict[str, Any]) -> None:
    assert [(row["request"], row["n"]) for row in standard["per_request"]] == [("a", 40), ("b", 1)]
    assert all(row["ci95"][0] <= row["mia_threshold.phi.auc"] <= row["ci95"][1] for row in standard["per_request"])
    assert _report(groups={"all": torch.arange(60)})["per_request"] == []


def test_each_split_is_predicted_once_per_model() -> None:
    CountingTask.seen = 0
    _report(task=CountingTask())
    # and once more under the parent, for target and rate: the forget set and the three draws of controls
    assert CountingTask.seen == 2 * (180 + 60 + 120 + 180) + 4 * 60


def test_controls_report_what_could_not_be_matched() -> None:
    splits = _world()[2]
    without_2 = splits.audit.take(splits.audit.labels != 2)
    report = _report(_replaced(splits, audit=without_2))
    assert report["controls"]["matched"] == 40
    assert report["controls"]["unmatched_per_class"] == {"2": 20}
    assert _figures(report["metrics"])["accuracy", "unseen"]["n"] == 40


def test_relearning_takes_no_more_samples_than_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = RelearningProfile(max_steps=10, max_samples=24, batch_size=10)
    monkeypatch.setattr("workers.evaluation.measure.DEFAULT_PROFILE", profile)
    report = _report()
    figures = _figures(report["metrics"])
    assert report["controls"]["relearning"] == figures["relearning_delay", "forget"]["n"] == 24
    assert figures["mia_threshold.phi.auc", None]["n"] == 60


def test_a_forget_set_larger_than_the_audit_pool_is_cut() -> None:
    splits = _world()[2]
    report = _report(_replaced(splits, audit=splits.audit.take(torch.arange(12))))
    assert report["controls"]["matched"] == 12
    assert _figures(report["metrics"])["mia_threshold.phi.auc", None]["n"] == 12


def test_a_single_forgotten_sample_can_be_measured() -> None:
    splits = _world()[2]
    figures = _figures(_report(_replaced(splits, forget=splits.forget.take(torch.tensor([0]))))["metrics"])
    low, high = figures["mia_threshold.phi.auc", None]["ci95"]
    assert high - low > 0.5
    assert figures["mia_threshold.phi.balanced_accuracy", None]["verdict"] == "inconclusive"


def test_a_whole_class_has_delays_but_no_ratio() -> None:
    _, _, splits = _world()
    both = torch.cat([splits.retain.labels, splits.forget.labels])
    assert int((both == 0).sum()) == 80
    images = torch.cat([splits.retain.images, splits.forget.images])
    every = LabelledSet(images=images, labels=both)
    changed = _replaced(splits, forget=every.take(both == 0), retain=every.take(both != 0))
    report = _report(changed)
    figures = _figures(report["metrics"])
    assert figures["relearning_ratio", None]["verdict"] == "not_applicable"
    assert figures["relearning_delay", "forget"]["value"] is not None
    assert report["controls"]["matched"] == 40
    assert figures["utility_drop", "test"]["n"] == 120


def test_without_any_control_nothing_is_claimed() -> None:
    splits = _world()[2]
    report = _report(_replaced(splits, audit=splits.audit.take(torch.zeros(0, dtype=torch.int64))))
    json.dumps(report, allow_nan=False)
    figures = _figures(report["metrics"])
    for name in ("mia_threshold.phi.auc", "relearning_ratio"):
        assert (figures[name, None]["value"], figures[name, None]["verdict"]) == (None, "not_applicable")
    assert report["curves"] == {}
    assert not report["planted_leak"]["noticed"]


def test_a_ruined_model_gives_a_report_without_nan() -> None:
    ruined = _net(5)
    with torch.no_grad():
        for weight in ruined.parameters():
            weight.fill_(float("nan"))
    report = _report(unlearned=ruined)
    json.dumps(report, allow_nan=False)
    figures = _figures(report["metrics"])
    assert figures["loss", "test"]["value"] is None
    assert figures["mia_threshold.phi.auc", None]["verdict"] == "inconclusive"
    assert figures["relearning_ratio", None]["verdict"] == "inconclusive"


def test_progress_is_told_and_limits_are_listed(standard: dict[str, Any]) -> None:
    phases: list[str] = []
    _report(progress=lambda phase, _done, _total: phases.append(phase))
    assert {"predict", "calibrate", "relearn"} <= set(phases)
    assert len(standard["does_not_prove"]) >= 5
    assert all(line.endswith(".") for line in _strings(standard["does_not_prove"]))


def test_with_the_retain_set_gone_the_figures_on_it_are_left_out_and_the_others_stand(standard: dict[str, Any]) -> None:
    _, _, splits = _world()
    gone = replace(splits, retain=splits.retain.take(torch.arange(0)), retained_labels=torch.arange(3))
    found = _figures(json.loads(json.dumps(_report(gone), allow_nan=False))["metrics"])
    for (name, split), row in found.items():
        if split == "retain" or name.startswith(("mia_entropy_lr", "mia_svc", "mia_threshold.phi.retain")):
            assert row["verdict"] in ("not_applicable", "inconclusive"), name
    before = _figures(standard["metrics"])
    for key in (("utility_drop", "test"), ("accuracy", "forget"), ("loss", "test")):
        assert found[key]["value"] == before[key]["value"]
    assert found["relearning_ratio", None]["value"] is not None, "no class counts as gone"
    assert ("gone_class_accuracy", "forget") not in found
