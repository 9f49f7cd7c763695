"""Where a dataset has one class, nothing is taught another: refused before any work, and passed over by `auto`.

No source of one class is indexed (tests/integration/test_datasets.py), so these rows are put into the store: what the
methods need is theirs to say, whatever datasets are taken.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from service.catalogue.methods import METHODS
from service.store import datasets, models, versions
from service.store.tables import AuditEntry, DeletionRequest, Job, Model
from tests import factories
from tests.stack import Stack, running
from workers import erasure_situation
from workers.ladder import next_rung

TEACHING = sorted(name for name, spec in METHODS.items() if spec.needs_class_condition)
DRAWS: dict[str, Any] = {"architecture": "ddpm_unet_small", "architecture_options": {"width": 8}}
LADDER = ["random_label", "finetune", "salun", "retrain"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Serve two datasets of one class: `d` has a classifier `c` and a generation model `g`, `set` one with a ladder."""
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    with running(tmp_path_factory.mktemp("one-class"), worker=False, database_url=url) as found:
        factories.dataset(found, classes=1)
        factories.model(found, "c")
        factories.model(found, "g", task="generation", **DRAWS)
        factories.dataset(found, "set", classes=1)
        factories.model(found, "s", of="set", policy={"ladder": LADDER})
        for name in ("c", "g", "s"):
            factories.version(found, name)
        yield found


def _stored(stack: Stack, *tables: type) -> list[int | None]:
    with stack.database.reading() as session:
        return [session.scalar(select(func.count()).select_from(table)) for table in tables]


def _errors(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return list(answer.json()["errors"])


def _ask(stack: Stack, sample_ids: list[str], *, of: str = "d", preview: bool = False, **body: Any) -> httpx.Response:
    url = "/v1/deletion-requests" + ("/preview" if preview else "")
    return stack.client.post(url, json={"dataset": of, "sample_ids": sample_ids, **body})


def test_two_methods_teach_another_class() -> None:
    assert TEACHING == ["random_label", "salun"]


@pytest.mark.parametrize("preview", [False, True])
@pytest.mark.parametrize("method", TEACHING)
def test_a_request_for_it_is_refused_for_each_model_with_what_would_do(
    stack: Stack, method: str, *, preview: bool
) -> None:
    before = _stored(stack, DeletionRequest, Job)
    answer = _ask(stack, ["d-train-0"], method=method, preview=preview)
    faults = answer.json()["faults"] if preview else _errors(answer)
    assert {(each["pointer"], each["code"], each["value"]) for each in faults} == {
        ("/method", "method_needs_not_met", method)
    }
    for model, fault in zip(("'c'", "'g'"), faults, strict=True):
        reason, _, instead = fault["detail"].partition("Ask for one that can")
        assert model in reason
        assert "the dataset has no other" in reason
        assert "retrain" in instead
        assert not [each for each in TEACHING if each in instead]
    assert _stored(stack, DeletionRequest, Job) == before


def test_all_that_is_wrong_with_such_a_request_is_said_at_once(stack: Stack) -> None:
    before = _stored(stack, DeletionRequest, Job, AuditEntry)
    body: dict[str, Any] = {"method": "salun", "models": ["g", "nothing"], "purpose": "bias"}
    faults = _errors(_ask(stack, ["d-train-0", "nobody"], **body))
    assert {each["pointer"] for each in faults} == {"/sample_ids/1", "/models/1", "/purpose", "/method"}
    assert _stored(stack, DeletionRequest, Job, AuditEntry) == before


@pytest.mark.parametrize("network", [{"architecture": "small_cnn"}, DRAWS])
def test_no_policy_names_it(stack: Stack, network: dict[str, Any]) -> None:
    before = _stored(stack, Model, AuditEntry)
    body = {"name": "never", "dataset": "d", **network, "policy": {"ladder": LADDER}}
    registering = _errors(stack.client.post("/v1/models", json=body))
    name = "g" if network is DRAWS else "c"
    replacing = _errors(stack.client.put(f"/v1/models/{name}/policy", json={"ladder": LADDER}))
    assert [each["pointer"] for each in registering] == ["/policy/ladder/0", "/policy/ladder/2"]
    assert [each["pointer"] for each in replacing] == ["/ladder/0", "/ladder/2"]
    for fault in (*registering, *replacing):
        assert "the dataset has no other" in fault["detail"]
        assert fault["detail"].count(fault["value"]) == 0, "it is not among those to name instead"
    assert _stored(stack, Model, AuditEntry) == before


def test_a_dataset_that_is_not_indexed_yet_is_said_to_be_so_whatever_a_policy_names(stack: Stack) -> None:
    with stack.database.writing() as session:
        datasets.register(session, name="unread", source={"source": "npz", "path": "/nowhere"})
    body = {"name": "never", "dataset": "unread", "architecture": "small_cnn", "policy": {"ladder": LADDER}}
    answer = stack.client.post("/v1/models", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "dataset_not_ready")


def test_auto_passes_it_over(stack: Stack) -> None:
    (previewed,) = _ask(stack, ["set-train-0"], of="set", preview=True).json()["models"]
    lacks = {each["method"]: each["lacks"] for each in previewed["methods"]}
    assert {name for name, lack in lacks.items() if lack} == set(TEACHING)
    assert all("the dataset has no other" in lacks[name] for name in TEACHING)
    accepted = _ask(stack, ["set-train-0"], of="set")
    assert accepted.status_code == 202, accepted.text
    with stack.database.reading() as session:
        job = session.get_one(Job, accepted.json()["jobs"][0]["id"])
        (parent,) = versions.live(session, models.by_name(session, "s").id)
        found = erasure_situation.of(session, job, parent, forget_count=600, labels=({0}, {0}))
    rung = next_rung(found)
    assert rung.method == "finetune"
    assert set(TEACHING) <= set(rung.passed_over)


def test_auto_is_refused_where_its_ladder_has_nothing_else(stack: Stack) -> None:
    factories.dataset(stack, "only", classes=1)
    factories.model(stack, "o", of="only", policy={"ladder": TEACHING})
    factories.version(stack, "o")
    (fault,) = _errors(_ask(stack, ["only-train-0"], of="only"))
    assert (fault["pointer"], fault["value"]) == ("/method", "auto")
    assert all(f"{name}: it teaches a sample another class" in fault["detail"] for name in TEACHING)
