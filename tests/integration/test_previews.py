"""A preview tells what the same request would do, stores nothing but that somebody asked, and is no oracle."""

import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from service.evidence.commitments import suppression_key
from service.lifecycle import JobStatus
from service.store import samples
from service.store.tables import Base, Dataset, Job, Sample, Version
from service.store.types import now
from tests import factories
from tests.stack import Stack, running

_NAMES = (f"p{number}" for number in itertools.count())


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    with running(tmp_path_factory.mktemp("previews"), worker=False, database_url=url) as found:
        yield found


def _model(stack: Stack, **fields: Any) -> str:
    """Add a dataset of 4 equal classes of 10 train samples, and a model of the same name trained on all of it."""
    name = next(_NAMES)
    factories.dataset(stack, name)
    factories.model(stack, name, of=name, **fields)
    factories.version(stack, name)
    return name


def _body(name: str, *named: str, **changes: Any) -> dict[str, Any]:
    return {"dataset": name, "sample_ids": [f"{name}-{each}" for each in named], **changes}


def _preview(client: httpx.Client, body: dict[str, Any]) -> Any:
    return client.post("/v1/deletion-requests/preview", json=body).raise_for_status().json()


def _rows(stack: Stack) -> dict[str, int]:
    with stack.database.reading() as session:
        tables = Base.metadata.tables
        return {name: session.scalar(select(func.count()).select_from(table)) or 0 for name, table in tables.items()}


def test_a_preview_counts_what_the_request_would_touch(stack: Stack) -> None:
    name = _model(stack)
    body = _body(name, "train-0", "train-4", "train-8", "train-1", "audit-0", "nobody", method="finetune")
    found = _preview(stack.client, {**body, "unresolved": "report"})
    assert found["acceptable"] is True
    assert found["counts"] == {
        "named": 6, "found": 5, "not_found": 1, "already_erased": 0, "trained_on": 4, "not_trained_on": 1,
    }  # fmt: skip
    (model,) = found["models"]
    assert (model["model"], model["versions"], model["parent"], model["samples"]) == (name, [1], 1, 4)
    assert (model["training_samples"], model["share"], model["scenario"]) == (40, 0.1, "subset")
    assert model["classes"] == [
        {"label": 0, "samples": 3, "of": 10, "share": 0.3},
        {"label": 1, "samples": 1, "of": 10, "share": 0.1},
        {"label": 2, "samples": 0, "of": 10, "share": 0.0},
        {"label": 3, "samples": 0, "of": 10, "share": 0.0},
    ]
    assert model["methods"] == [{"method": "finetune", "lacks": None}]
    assert found["approval_needed"] is False


def test_a_preview_and_the_request_after_it_agree(stack: Stack) -> None:
    name = _model(stack)
    for named, changes in (
        (["train-0", "train-1"], {"method": "finetune"}),
        ([f"train-{i}" for i in range(21)], {"method": "finetune", "received_at": "2024-01-31T10:00:00Z"}),
        (["audit-0"], {"purpose": "bias", "method": "finetune"}),
    ):
        body = _body(name, *named, **changes)
        told, made = _preview(stack.client, body), stack.client.post("/v1/deletion-requests", json=body).json()
        assert told["acceptable"]
        assert told["due_at"] == made["due_at"] or "received_at" not in changes
        assert told["approval_needed"] == (made["status"] == "on_hold")
        assert told["scope"] == made["scope"]
        assert told["counts"]["found"] == made["num_samples"]
        if not told["approval_needed"]:
            assert [model["model"] for model in told["models"]] == [job["model"] for job in made["jobs"]]


def test_nothing_is_stored_but_that_somebody_asked(stack: Stack) -> None:
    name = _model(stack)
    before = _rows(stack)
    with stack.client_with("requests:write") as client:
        _preview(client, _body(name, "train-0", "train-1"))
    after = _rows(stack)
    changed = {table for table in after if after[table] != before[table]}
    assert changed == {"api_keys", "audit_entries", "audit_links"}
    query = {"action": "request.previewed", "dataset": name}
    (entry,) = stack.client.get("/v1/audit/entries", params=query).json()["items"]
    assert entry["payload"]["counts"]["found"] == 2
    assert "train-" not in str(entry)
    with stack.database.reading() as session:
        states = set(session.scalars(select(Sample.state).join(Dataset).where(Dataset.name == name)))
    assert states == {"live"}


def _faults(answer: dict[str, Any], key: str) -> set[tuple[str, str]]:
    return {(fault["pointer"], fault["code"]) for fault in answer[key]}


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        (["train-0", "nobody", "train-0"], {"method": "nonsense"}),
        (["nobody"], {}),
        ([], {"method": "finetune"}),
        (["train-0"], {"models": ["nothing"], "method": "scrub", "method_options": {"nonsense": 1}}),
        (["train-0"], {"method": "sisa"}),
        ([f"train-{i}" for i in range(40)], {"method": "finetune"}),
    ],
)
def test_the_faults_are_those_for_which_the_request_would_be_refused(
    stack: Stack, named: list[str], changes: dict[str, Any]
) -> None:
    name = _model(stack)
    body = _body(name, *named, **changes)
    refused = stack.client.post("/v1/deletion-requests", json=body)
    assert refused.status_code == 422
    told = _preview(stack.client, body)
    assert told["acceptable"] is False
    assert _faults(told, "faults") >= _faults(refused.json(), "errors")
    assert told["faults_total"] == len(told["faults"])


@pytest.mark.parametrize("body", [{"dataset": "nothing", "sample_ids": ["x"]}, {"dataset": "d"}, {"sample_ids": "x"}])
def test_where_nothing_can_be_said_it_is_refused_as_the_request_would_be(stack: Stack, body: dict[str, Any]) -> None:
    answers = [stack.client.post(f"/v1/deletion-requests{end}", json=body) for end in ("", "/preview")]
    assert {answer.status_code for answer in answers} == {422}
    assert answers[0].json()["errors"] == answers[1].json()["errors"]


def _erase(stack: Stack, name: str, sample: str) -> None:
    """Leave of the sample what a completed request leaves: a token."""
    with stack.database.reading() as session:
        row = session.scalars(select(Sample).where(Sample.sample_id == f"{name}-{sample}")).one()
    key = stack.settings.master_key_bytes
    with stack.database.writing() as session:
        samples.forget_ids(session, suppression_key(key), row.dataset_id, [row.id])


def test_to_a_key_that_may_not_read_datasets_an_erased_id_looks_like_one_that_never_was(stack: Stack) -> None:
    name = _model(stack)
    _erase(stack, name, "train-0")
    answers = []
    with stack.client_with("requests:write") as blind, stack.client_with("requests:write", "datasets:read") as seeing:
        for sample in ("train-0", "train-9999"):
            body = _body(name, sample, "train-5", method="finetune")
            for unresolved in ("reject", "report"):
                told = _preview(blind, {**body, "unresolved": unresolved})
                text = {**told, "received_at": None, "due_at": None}
                answers.append((unresolved, str(text).replace("train-0'", "train-9999'")))
                assert told["models"][0]["classes"] is None, "the share of a class tells a sample's label"
        assert answers[:2] == answers[2:]
        told = _preview(seeing, _body(name, "train-0", "train-5", method="finetune"))
    assert (told["counts"]["already_erased"], told["counts"]["not_found"]) == (1, 0)
    assert told["models"][0]["classes"] is not None


def test_the_scenario_and_what_each_method_of_the_ladder_lacks_are_told(stack: Stack) -> None:
    name = _model(stack)
    whole_class = [f"train-{i}" for i in range(0, 40, 4)]
    (model,) = _preview(stack.client, _body(name, *whole_class))["models"]
    assert model["scenario"] == "class"
    methods = {each["method"]: each["lacks"] for each in model["methods"]}
    assert methods["retrain"] is None
    assert methods["sisa"] is not None
    gone = _model(stack, policy={"retain_data": "gone"})
    (model,) = _preview(stack.client, _body(gone, "train-0"))["models"]
    assert model["scenario"] == "retain_gone"


def test_the_forecast_is_of_past_jobs_where_there_are_any_and_else_of_the_training(stack: Stack) -> None:
    name = _model(stack)
    body = _body(name, "train-0", method="finetune")

    def forecast() -> Any:
        return _preview(stack.client, body)["models"][0]["forecast"]

    assert forecast() == {"seconds": None, "basis": "none", "jobs": 0}
    with stack.database.writing() as session:
        version = session.scalars(select(Version).order_by(Version.created_at.desc())).first()
        assert version is not None
        version.training_seconds = 77.0
    assert forecast() == {"seconds": 77.0, "basis": "training", "jobs": 0}
    for seconds in (10, 20, 90):
        made = stack.client.post("/v1/deletion-requests", json=_body(name, f"train-{seconds % 40}", method="finetune"))
        job = made.json()["jobs"][0]["id"]
        end = now()
        values = {"status": JobStatus.PUBLISHED, "started_at": end - timedelta(seconds=seconds), "finished_at": end}
        with stack.database.writing() as session:
            session.execute(update(Job).where(Job.id == job).values(**values))
    assert forecast() == {"seconds": 20.0, "basis": "past_jobs", "jobs": 3}


def test_a_preview_says_when_the_quota_would_stand_in_the_way_and_uses_none_up(stack: Stack) -> None:
    name = _model(stack)
    quotas = {"requests_per_day": 1}
    made = stack.client.post("/v1/api-keys", json={"name": "k", "scopes": ["requests"], "quotas": quotas}).json()
    with httpx.Client(base_url=stack.base_url, headers={"Authorization": f"Bearer {made['key']}"}) as client:
        body = _body(name, "train-0", method="finetune")
        for _ in range(3):
            assert _preview(client, body)["acceptable"]
        client.post("/v1/deletion-requests", json=body).raise_for_status()
        assert ("", "quota_exceeded") in _faults(_preview(client, body), "faults")


def test_what_a_caller_writes_for_a_method_does_not_reach_the_log(stack: Stack) -> None:
    name = _model(stack)
    with stack.client_with("requests:write") as client:
        _preview(client, _body(name, "train-0", method="train-0-in-place-of-a-method"))
    query = {"action": "request.previewed", "dataset": name}
    (entry,) = stack.client.get("/v1/audit/entries", params=query).json()["items"]
    assert entry["payload"]["method"] is None
    assert "train-" not in str(entry)
