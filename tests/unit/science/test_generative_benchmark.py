"""A benchmark that goes on where it stopped mixes no settings, and refuses before its hours what can give nothing."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import generative, generative_table
from benchmarks.generative_origin import another, mixed, origin_of
from service.catalogue.recipe import Recipe
from workers.pipeline import ModelSpec
from workers.samples import LabelledSet

DEFAULT = generative.default_origin()


def _of(**recipe: Any) -> dict[str, Any]:
    return origin_of(architecture=generative.ARCHITECTURE, profile=generative.PROFILE, recipe=recipe, options={})


def _row(
    scenario: str = "random", method: str = "scrub", seed: int = 0, *, n: int = 128, **more: Any
) -> dict[str, Any]:
    values = {
        "generation_accuracy.retain": 0.95,
        "frechet_distance.retain": 3.0,
        "mia_threshold.loss.auc": 0.5,
        "relearning_delay.forget": 40.0,
    }
    figures = {name: {"value": value, "ci95": None, "n": n, "verdict": "measured"} for name, value in values.items()}
    row = {"scenario": scenario, "seed": seed, "method": method, "forgotten": n, "seconds": 1.0, "retraining_s": 10.0}
    return {**row, "figures": figures, **more}


def _attacked(auc: float, half: float, **more: Any) -> dict[str, Any]:
    row = _row(**more)
    row["figures"]["mia_threshold.loss.auc"] |= {"value": auc, "ci95": [auc - half, auc + half]}
    return row


def _written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _ended(monkeypatch: pytest.MonkeyPatch, module: Any, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmark", *args])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_rows_of_other_epochs_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _written(tmp_path / "rows.jsonl", _row(of=_of(epochs=1)))
    assert _ended(monkeypatch, generative, "--out", str(out), "--epochs", "3") == 2
    told = capsys.readouterr().err
    assert "epochs 1, here 3" in told
    assert "another --out" in told


def test_models_of_other_epochs_are_not_gone_on_with_before_there_are_rows(tmp_path: Path) -> None:
    folder = tmp_path / "rows.models"
    folder.mkdir()
    (folder / "original-0.json").write_text(json.dumps({"sha256": "", "seconds": 1.0, "of": _of(epochs=1)}))
    assert another(tmp_path / "rows.jsonl", _of(epochs=1), default=DEFAULT) is None
    told = another(tmp_path / "rows.jsonl", _of(epochs=3), default=DEFAULT)
    assert told is not None
    assert "epochs" in told


def test_what_does_not_say_what_it_is_of_is_of_the_defaults(tmp_path: Path) -> None:
    out = _written(tmp_path / "rows.jsonl", _row())
    assert another(out, DEFAULT, default=DEFAULT) is None
    assert another(out, _of(epochs=3), default=DEFAULT) is not None


@pytest.mark.parametrize("name", ["data_sha256", "image_shape", "torch", "device", "width", "lr", "profile"])
def test_each_setting_is_looked_at(tmp_path: Path, name: str) -> None:
    out = _written(tmp_path / "rows.jsonl", _row(of={**DEFAULT, name: "else"}))
    told = another(out, DEFAULT, default=DEFAULT)
    assert told is not None
    assert f"{name} else" in told


def _plan(tmp_path: Path) -> generative.Plan:
    return generative.Plan(
        out=tmp_path / "rows.jsonl",
        root=None,
        seed=0,
        scenarios=("class",),
        methods=(),
        device="cpu",
        threads=1,
        recipe={"epochs": 1},
        options={},
        of=_of(epochs=1),
    )


def test_a_row_says_what_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = SimpleNamespace(
        splits=SimpleNamespace(forget=[1]), retraining=1.0, models={"original": None}, measured={"original": None}
    )
    monkeypatch.setattr(generative, "_cell", lambda *_: cell)
    monkeypatch.setattr(generative, "_figures", lambda *_: {"figures": {}})
    plan = _plan(tmp_path)
    assert [row["of"] for row in generative._rows(plan, "class", ["original"])] == [plan.of]


def test_a_kept_model_says_what_it_is_of(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    spec = ModelSpec(
        architecture="ddpm_unet_small",
        image_shape=(1, 8, 8),
        num_classes=10,
        recipe=Recipe(epochs=1, optimizer="adam", lr=1e-3),
    )
    samples = LabelledSet(images=torch.zeros(8, 1, 8, 8, dtype=torch.uint8), labels=torch.arange(8))
    generative._trained(plan, spec, samples, name="original-0")
    assert json.loads((tmp_path / "rows.models" / "original-0.json").read_text())["of"] == json.loads(
        json.dumps(plan.of)
    )
    assert another(plan.out, _of(epochs=1), default=DEFAULT) is None
    assert another(plan.out, DEFAULT, default=DEFAULT) is not None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mu_mis", "no method for generation"),
        ("nosuch", "known: "),
        ("sisa", "shards"),
        ("scrub/epochs=x", "epochs"),
        ("scrub/oops", "option"),
    ],
)
def test_a_method_that_can_give_nothing_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    out = tmp_path / "rows.jsonl"
    assert _ended(monkeypatch, generative, "--out", str(out), "--methods", "finetune", name) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_rows_of_two_settings_make_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _written(tmp_path / "rows.jsonl", _row(), _row(seed=1, of=_of(epochs=1)))
    assert _ended(monkeypatch, generative_table, str(out)) == 2
    assert "epochs 1, here 40" in capsys.readouterr().err
    assert mixed([_row(), _row(of=DEFAULT)], default=DEFAULT) is None


def test_an_attack_that_the_gate_could_not_judge_is_said_to_be_no_bound() -> None:
    rows = [_row(method="retrain"), _attacked(0.63, 0.02)]
    told = generative_table.targets("random", rows)
    assert "- `scrub`: reached" in told
    assert any("untestable in 1 of 1 runs" in line and "128 a side" in line for line in told)


def test_rows_that_do_not_say_how_many_the_attack_had_are_taken_by_what_was_forgotten() -> None:
    row = _attacked(0.63, 0.02)
    del row["figures"]["mia_threshold.loss.auc"]["n"]
    assert any("untestable" in line for line in generative_table.targets("random", [_row(method="retrain"), row]))


@pytest.mark.parametrize(
    ("auc", "half", "verdict"), [(0.5, 0.02, None), (0.63, 0.02, "fail"), (0.54, 0.05, "inconclusive")]
)
def test_an_attack_on_enough_samples_is_judged_run_by_run_as_the_gate_does(
    auc: float, half: float, verdict: str | None
) -> None:
    original = _attacked(0.7, 0.02, method="original", n=1000)
    told = generative_table.targets("random", [original, _row(method="retrain", n=1000), _attacked(auc, half, n=1000)])
    assert f"- `scrub`: {f'attack {verdict} in 1 of 1 runs' if verdict else 'reached'}" in told
    assert not any("untestable" in line for line in told)
