"""The published schema fits what the worker makes, describes every field of it, and refuses what is not a report."""

import copy
import json
from functools import cache
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from service.catalogue.bounds import DEFAULT_BOUNDS
from service.catalogue.methods import FinetuneConfig
from service.catalogue.recipe import Recipe
from service.catalogue.report_schema import REPORT_SCHEMA
from service.schemas.report import evaluation_schema
from workers.evaluation.gate import Bar
from workers.evaluation.relearning_curve import RelearningProfile
from workers.evaluation.report import EvaluationSplits
from workers.pipeline import ModelSpec, erase, train_original
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning.interface import UnlearningSplits

SPEC = ModelSpec(
    architecture="small_cnn",
    options={"width": 4},
    image_shape=(1, 8, 8),
    num_classes=3,
    recipe=Recipe(epochs=2, batch_size=32, seed=5),
)
BAR = Bar(bounds=DEFAULT_BOUNDS["privacy"], max_accuracy_drop=1.0)
ENVELOPE = {
    "schema": REPORT_SCHEMA,
    "id": "evl_1",
    "job_id": "job_1",
    "created_at": "2024-05-01T12:00:00Z",
    "plots": {"attack_roc": "/v1/evaluations/evl_1/plots/attack_roc.svg"},
}
OPEN = Draft202012Validator(evaluation_schema())


def _closed(schema: Any) -> Any:
    """Return the schema with every object limited to the fields that it describes."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    return (
        {**closed, "additionalProperties": False}
        if schema.get("type") == "object" and "properties" in schema
        else closed
    )


def _samples(n: int, seed: int) -> LabelledSet:
    labels = torch.arange(n) % 3
    grey = 64.0 + 64 * labels[:, None, None, None] + 60 * torch.randn(n, 1, 8, 8, generator=generator_for(seed))
    return LabelledSet(images=grey.clamp(0, 255).to(torch.uint8), labels=labels)


@cache
def _text(kind: str) -> str:
    train, held_out = _samples(90, 0), _samples(60, 1)
    splits = UnlearningSplits(train=train, forget_index=torch.arange(18), selection=_samples(30, 2))
    audit = held_out.take(torch.arange(0 if kind == "without controls" else 30))
    _, report = erase(
        SPEC,
        train_original(SPEC, train).model,
        splits,
        EvaluationSplits(retain=splits.retain, forget=splits.forget, audit=audit, test=held_out),
        method="finetune",
        config=FinetuneConfig(epochs=1),
        seed=0,
        bar=None if kind == "not judged" else BAR,
        max_accuracy_drop=1.0,
        groups={"req_a": torch.arange(9), "req_b": torch.arange(9, 18)},
        training_seconds=None if kind == "not judged" else 2.0,
        retrained=train_original(SPEC, splits.retain).model if kind == "with a retrained version" else None,
    )
    return json.dumps({**ENVELOPE, **report}, allow_nan=False)


@pytest.fixture(autouse=True)
def short_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.evaluation.measure.DEFAULT_PROFILE", RelearningProfile(max_steps=6, rates=(0.01,)))


def _report(kind: str = "standard") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(_text(kind))
    return loaded


def test_the_schema_is_a_json_schema_of_its_own_version() -> None:
    schema = evaluation_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == schema["properties"]["schema"]["const"] == REPORT_SCHEMA
    assert "extra" in schema["$defs"]["MetricOut"]["properties"]


@pytest.mark.parametrize("kind", ["standard", "without controls", "not judged", "with a retrained version"])
def test_a_report_of_the_worker_fits_and_every_field_of_it_is_described(kind: str) -> None:
    report = _report(kind)
    assert [error.message for error in OPEN.iter_errors(report)] == []
    closed = Draft202012Validator(_closed(evaluation_schema()))
    assert [(list(error.path), error.message) for error in closed.iter_errors(report)] == []


def test_what_belongs_to_a_metric_alone_may_hold_anything() -> None:
    report = _report()
    report["metrics"][0]["extra"] = {"anything": [1, {"at": "all"}]}
    assert OPEN.is_valid(report)


def test_the_gates_rulings_are_described() -> None:
    gate = _report()["gate"]
    assert len(gate["bounds"]) == len(BAR.bounds)
    broken = _report()
    broken["gate"]["bounds"][0]["verdict"] = "perhaps"
    assert not OPEN.is_valid(broken)


def test_what_the_service_adds_around_a_report_fits() -> None:
    added = {
        "inputs": {
            "dataset_digest": "0" * 64,
            "parent_sha256": "1" * 64,
            "retrained_sha256": "2" * 64,
            "counts": {"forget": 18},
        },
        "policy_digest": "a" * 64,
        "rungs": [{"method": "scrub_r", "verdict": "fail", "evaluation_id": "evl_0", "seconds": 1.5}],
        "earlier_forget_sets": [{"num_samples": 4, "state": "data_gone"}],
    }
    assert [error.message for error in OPEN.iter_errors({**_report(), **added})] == []
    assert not OPEN.is_valid({**_report(), "policy_digest": "sha256:1"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metrics", 0, "basis"), None),
        (("metrics", 0, "verdict"), "passed"),
        (("metrics", 0, "ci95"), [0.1]),
        (("metrics", 0, "n"), -1),
        (("metrics", 0, "value"), "0.5"),
        (("gate", "verdict"), "good"),
        (("schema",), "urn:unlearning-service:report:2"),
        (("controls",), {}),
    ],
)
def test_what_is_no_report_is_refused(path: tuple[str | int, ...], value: object) -> None:
    report = copy.deepcopy(_report())
    place: Any = report
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not OPEN.is_valid(report)


@pytest.mark.parametrize("name", ["metrics", "gate", "does_not_prove", "environment", "seconds", "job_id"])
def test_a_report_that_lacks_a_part_is_refused(name: str) -> None:
    report = _report()
    del report[name]
    assert not OPEN.is_valid(report)
