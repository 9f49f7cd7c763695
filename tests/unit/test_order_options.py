"""What a request's options are stored as: in full, but for what each model's task is to fill in."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.auth import Principal
from service.catalogue.methods import METHODS, FinetuneConfig
from service.catalogue.tasks import Task
from service.deps import Parts
from service.routes.deletion_requests import order_of
from service.schemas.deletion_requests import DeletionRequestIn
from service.settings import Settings


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """Parts of a service in which generation prefers a rate of its own for `finetune`."""
    monkeypatch.setitem(METHODS, "finetune", replace(METHODS["finetune"], for_task={Task.GENERATION: {"lr": 5e-4}}))
    return cast("Parts", SimpleNamespace(settings=Settings(data_dir=tmp_path)))


def _stored(parts: Parts, **options: Any) -> dict[str, Any]:
    body = DeletionRequestIn(dataset="d", sample_ids=["a"], method="finetune", method_options=options)
    order, faults = order_of(body, parts, Principal(id="k", name="k", scopes=frozenset()))
    assert faults == []
    return order.method_options


def test_an_option_that_tasks_differ_in_is_left_to_each_models_job_unless_it_is_given(parts: Parts) -> None:
    whole = FinetuneConfig().model_dump(mode="json")
    assert _stored(parts) == {name: value for name, value in whole.items() if name != "lr"}
    assert _stored(parts, lr=whole["lr"]) == whole


def test_what_is_stored_is_filled_in_by_the_models_task(parts: Parts) -> None:
    filled = {
        task: FinetuneConfig.model_validate(METHODS["finetune"].options_on(task, _stored(parts))).lr for task in Task
    }
    assert filled == {Task.CLASSIFICATION: FinetuneConfig().lr, Task.GENERATION: 5e-4}
