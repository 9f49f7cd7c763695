"""Plots as rows and as answers: kept on both databases, served inert and cacheable, missing ones named."""

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from alembic import command
from jsonschema import Draft202012Validator
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from service import migrate
from service.errors import NotFound
from service.settings import Settings
from service.store import plots
from service.store.session import Database
from service.store.tables import Evaluation, Job
from service.store.types import new_id
from tests import factories
from tests.stack import Stack, running
from workers.bench import Bench

ROC = '<svg xmlns="http://www.w3.org/2000/svg"><title>ROC: φ</title></svg>'
BARS = '<svg xmlns="http://www.w3.org/2000/svg"/>'
REPORT: dict[str, Any] = {"method": "finetune", "metrics": [], "gate": {"verdict": "not_evaluated", "sentence": "-"}}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database that stood at the first migration before it came to the newest."""
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("plots"), database_url=url)
    command.upgrade(migrate.config(settings.resolved_database_url), "0001")
    migrate.upgrade(settings.resolved_database_url)
    bench = Bench.open(settings)
    factories.dataset(bench)
    yield bench.database
    bench.database.dispose()


def _evaluation(database: Database, drawn: dict[str, str]) -> str:
    with database.writing() as session:
        dataset_id = session.execute(text("SELECT id FROM datasets")).scalar_one()
        job = Job(id=new_id("job"), kind="erase", status="published", dataset_id=dataset_id, seed=0)
        session.add(job)
        session.flush()
        row = Evaluation(id=new_id("evl"), job_id=job.id, report=REPORT)
        session.add(row)
        session.flush()
        plots.save(session, row.id, drawn)
        return row.id


def test_a_plot_is_read_as_it_was_saved(database: Database) -> None:
    evaluation = _evaluation(database, {"attack_roc": ROC, "accuracy_bars": BARS})
    with database.reading() as session:
        assert plots.names(session, evaluation) == ["accuracy_bars", "attack_roc"]
        assert plots.get(session, evaluation, "attack_roc") == ROC
        with pytest.raises(NotFound, match="there are: accuracy_bars, attack_roc"):
            plots.get(session, evaluation, "losses")
        with pytest.raises(NotFound, match="it has none"):
            plots.get(session, _evaluation(database, {}), "losses")


def test_a_plot_is_never_replaced_and_needs_its_evaluation(database: Database) -> None:
    evaluation = _evaluation(database, {"attack_roc": ROC})
    for of in (evaluation, "evl_nobody"):
        with pytest.raises(IntegrityError), database.writing() as session:
            plots.save(session, of, {"attack_roc": BARS})
    with database.reading() as session:
        assert plots.get(session, evaluation, "attack_roc") == ROC


@pytest.mark.parametrize("drawn", [{"../x": BARS}, {"A": BARS}, {"": BARS}, {"big": "x" * (plots.MAX_BYTES + 1)}])
def test_a_plot_that_could_not_be_served_is_not_kept(database: Database, drawn: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="plot"):
        _evaluation(database, drawn)


def test_the_audit_logs_triggers_survive_the_migration(database: Database) -> None:
    kind = (
        "sqlite_master WHERE type = 'trigger'"
        if database.engine.dialect.name == "sqlite"
        else ("pg_trigger WHERE NOT tgisinternal AND tgrelid = 'audit_entries'::regclass")
    )
    with database.reading() as session:
        assert session.execute(text(f"SELECT count(*) FROM {kind}")).scalar_one() >= 2


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("evaluations"), worker=False) as found:
        factories.dataset(found)
        yield found


@pytest.fixture(scope="module")
def evaluation(stack: Stack) -> str:
    return _evaluation(stack.database, {"attack_roc": ROC, "accuracy_bars": BARS})


def test_a_report_links_its_plots_and_names_its_schema(stack: Stack, evaluation: str) -> None:
    found = stack.client.get(f"/v1/evaluations/{evaluation}").raise_for_status().json()
    assert found["plots"] == {
        name: f"/v1/evaluations/{evaluation}/plots/{name}.svg" for name in ("accuracy_bars", "attack_roc")
    }
    assert {key: found[key] for key in REPORT} == REPORT
    assert found["schema"] == "urn:unlearning-service:report:1"
    assert stack.client.get(found["plots"]["attack_roc"]).status_code == 200


def test_a_plot_is_served_inert_and_cacheable(stack: Stack, evaluation: str) -> None:
    answer = stack.client.get(f"/v1/evaluations/{evaluation}/plots/attack_roc.svg")
    assert (answer.status_code, answer.content) == (200, ROC.encode())
    headers = answer.headers
    assert headers["content-type"].split(";")[0] == "image/svg+xml"
    assert headers["etag"] == f'"sha256:{hashlib.sha256(ROC.encode()).hexdigest()}"'
    assert headers["x-content-type-options"] == "nosniff"
    assert {"default-src 'none'", "style-src 'unsafe-inline'"} <= set(headers["content-security-policy"].split("; "))
    assert headers["cache-control"].startswith("private")


@pytest.mark.parametrize(("named", "status"), [("{}", 304), ("W/{}", 304), ('"x", {}', 304), ("*", 304), ('"x"', 200)])
def test_a_plot_that_the_client_has_is_not_sent_again(stack: Stack, evaluation: str, named: str, status: int) -> None:
    url = f"/v1/evaluations/{evaluation}/plots/attack_roc.svg"
    tag = stack.client.get(url).headers["etag"]
    answer = stack.client.get(url, headers={"If-None-Match": named.format(tag)})
    assert (answer.status_code, answer.headers["etag"]) == (status, tag)
    assert bool(answer.content) == (status == 200)


def _problem(answer: httpx.Response) -> Any:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


@pytest.mark.parametrize("name", ["losses", "ATTACK_ROC", "%2e%2e", "attack_roc.svg", "x" * 300])
def test_a_plot_that_is_not_there_is_a_problem_that_lists_those_that_are(
    stack: Stack, evaluation: str, name: str
) -> None:
    found = _problem(stack.client.get(f"/v1/evaluations/{evaluation}/plots/{name}.svg"))
    assert (found["status"], found["code"]) == (404, "plot_not_found")
    assert found["plots"] == ["accuracy_bars", "attack_roc"]


def test_an_unknown_evaluation_has_no_plots(stack: Stack) -> None:
    found = _problem(stack.client.get("/v1/evaluations/evl_nobody/plots/attack_roc.svg"))
    assert (found["status"], found["code"]) == (404, "evaluation_not_found")


def test_the_schema_is_served_and_is_not_taken_for_an_evaluation(stack: Stack) -> None:
    answer = stack.client.get("/v1/evaluations/schema").raise_for_status()
    assert answer.headers["content-type"] == "application/schema+json"
    Draft202012Validator.check_schema(answer.json())
    assert answer.json()["$id"] == "urn:unlearning-service:report:1"
