"""What each task has of architectures, methods and metrics."""

import pytest

from service.catalogue.architectures import ARCHITECTURES
from service.catalogue.methods import METHODS
from service.catalogue.metrics import METRICS
from service.catalogue.tasks import Task

FOR_GENERATION = (
    "retrain", "finetune", "neggrad_plus", "random_label", "salun", "ssd", "scrub", "ieu", "noise_finetune",
)  # fmt: skip


def test_generation_has_the_methods_that_work_on_predicted_noise() -> None:
    assert {name for name, spec in METHODS.items() if Task.GENERATION in spec.tasks} == set(FOR_GENERATION)


def test_classification_has_every_method() -> None:
    assert all(Task.CLASSIFICATION in spec.tasks for spec in METHODS.values())


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(FOR_GENERATION)))
def test_a_method_without_meaning_for_a_task_says_why(name: str) -> None:
    reason = METHODS[name].not_for[Task.GENERATION]
    assert reason.startswith(("its ", "it "))
    assert not reason.endswith(".")


@pytest.mark.parametrize("name", FOR_GENERATION)
def test_the_options_a_task_prefers_stand_below_those_given_and_leave_a_papers_preset_alone(name: str) -> None:
    spec = METHODS[name]
    preferred = spec.options_on(Task.GENERATION, {})
    assert preferred == dict(spec.for_task.get(Task.GENERATION, {}))
    assert spec.config.model_validate(preferred)
    assert spec.options_on(Task.CLASSIFICATION, {"seed": 1}) == {"seed": 1}
    assert spec.options_on(Task.GENERATION, {"preset": "paper"}) == {"preset": "paper"}
    for option in preferred:
        assert spec.options_on(Task.GENERATION, {option: "given"})[option] == "given"


def test_every_metric_and_every_architecture_is_for_a_task() -> None:
    assert all(spec.tasks for spec in METRICS.values())
    assert all(spec.task in Task for spec in ARCHITECTURES.values())
