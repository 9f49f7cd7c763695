"""Reading requests costs a few statements, however many there are and however long the queue is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from service.app import create_app
from service.deps import Parts
from service.routes.deletion_requests import view, views
from service.store import intake, queue_forecast, workers
from service.store.intake import Secrets
from service.store.tables import DeletionRequest, Job
from service.store.types import now
from tests import factories
from workers.bench import Bench

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")


@pytest.fixture
def names(request: pytest.FixtureRequest) -> list[str]:
    return [f"t{abs(hash(request.node.nodeid)) % 10**9}-{letter}" for letter in "abc"]


@pytest.fixture
def parts(bench: Bench, names: list[str]) -> Iterator[Parts]:
    for name in names:
        factories.dataset(bench, name)
        factories.model(bench, name, of=name)
        factories.version(bench, name)
    with bench.database.writing() as session:
        workers.seen(session, "w")
    found: Parts = create_app(bench.settings).state.parts
    yield found
    found.database.dispose()


def _ask(parts: Parts, name: str, number: int) -> str:
    with parts.database.writing() as session:
        accepted = intake.accept(session, factories.order(name, f"train-{number}"), SECRETS)
        session.flush()
        return accepted.request.id


@contextmanager
def _reading(parts: Parts) -> Iterator[tuple[Session, list[str]]]:
    """Yield a session beside the statements that it runs."""
    ran: list[str] = []

    def note(*given: Any) -> None:
        ran.append(given[2])

    with parts.database.reading() as session:
        session.scalar(select(1))
        event.listen(parts.database.engine, "before_cursor_execute", note)
        try:
            yield session, ran
        finally:
            event.remove(parts.database.engine, "before_cursor_execute", note)


def test_a_page_of_requests_takes_as_many_statements_as_one_of_them(parts: Parts, names: list[str]) -> None:
    asked = [_ask(parts, name, number) for number in range(4) for name in names]
    counts = []
    for ids in (asked[:1], asked):
        with _reading(parts) as (session, ran):
            found = list(session.scalars(select(DeletionRequest).where(DeletionRequest.id.in_(ids))))
            documents = views(session, found)
        assert {each.id for each in documents} == set(ids)
        assert {each.outcomes["pending"] for each in documents} == {1}
        assert [each.jobs[0].model for each in documents] == [each.dataset for each in documents]
        counts.append(len(ran))
    assert counts[0] == counts[1] <= 4


def test_the_queue_is_played_through_once_for_all_who_ask_within_a_moment(
    parts: Parts, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_forecast, "KEPT_SECONDS", 1000.0)
    first, second = _ask(parts, names[0], 0), _ask(parts, names[1], 0)
    counts = []
    for request_id in (first, second, first):
        with _reading(parts) as (session, ran):
            assert view(session, session.get_one(DeletionRequest, request_id), parts).forecast_at is None
        counts.append(len(ran))
    assert counts[1] == counts[2] < counts[0], "that nobody knows is kept too"

    job_id = _job_of(parts, first)
    with parts.database.writing() as session:
        job = session.get_one(Job, job_id)
        job.status, job.started_at, job.finished_at = "published", now(), now()
    third = _ask(parts, names[0], 1)
    with _reading(parts) as (session, _):
        document = view(session, session.get_one(DeletionRequest, third), parts)
    assert document.forecast_at is not None, "a job that is new to the queue has it played again"


def _job_of(parts: Parts, request_id: str) -> str:
    with parts.database.reading() as session:
        return view(session, session.get_one(DeletionRequest, request_id), parts).jobs[0].id
