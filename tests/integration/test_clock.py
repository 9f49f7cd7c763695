"""The marks of a due date are announced once each; a due date missed takes what knows the samples out of service."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service import clock, deadlines, migrate
from service.deps import Parts
from service.lifecycle import JobStatus, RequestStatus
from service.settings import Settings
from service.store import attaching, audit, cancel, deadline_marks, intake, jobs, models, requests, settling
from service.store.intake import Secrets
from service.store.session import Database
from service.store.tables import DeletionRequest, Job, Version, WebhookEvent
from service.store.types import now
from tests import factories

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")
MARKS = ["request.deadline_50", "request.deadline_80", "request.deadline_100", "request.overdue"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("clock"), database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    found = Parts(settings=settings, database=database, artifacts=Mock(), bell=Mock(), secrets=SECRETS)
    factories.webhook(found)
    yield found
    database.dispose()


@pytest.fixture
def name(parts: Parts, request: pytest.FixtureRequest) -> str:
    """A dataset with one trained model of the same name; earlier tests' requests are out of the clock's way."""
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with parts.database.writing() as session:
        session.execute(update(DeletionRequest).values(next_mark_at=None))
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(parts, found)
    factories.model(parts, found, of=found)
    factories.version(parts, found)
    return found


def _ask(parts: Parts, name: str, *named: str, **changes: Any) -> str:
    with parts.database.writing() as session:
        return intake.accept(session, factories.order(name, *(named or ["train-0"]), **changes), SECRETS).request.id


def _received(*, percent: float) -> datetime:
    """Return a day so long ago that about so many percent of the time to the due date have gone by."""
    return now() - timedelta(days=31 * percent / 100)


def _told(parts: Parts, request_id: str) -> list[str]:
    with parts.database.reading() as session:
        return [event.type for event in _announced(session, request_id)]


def _announced(session: Session, request_id: str) -> list[WebhookEvent]:
    events = session.scalars(select(WebhookEvent).where(WebhookEvent.type.in_(MARKS)).order_by(WebhookEvent.time))
    return [event for event in events if event.data["request"] == request_id]


def _logged(session: Session, request_id: str) -> list[str]:
    entries = audit.find(session, links={"request": request_id}, actions=MARKS, limit=100)
    return [entry.action for entry in entries]


def _states(parts: Parts, name: str) -> list[str]:
    with parts.database.reading() as session:
        model = models.by_name(session, name)
        return list(session.scalars(select(Version.state).where(Version.model_id == model.id).order_by(Version.number)))


@pytest.mark.parametrize(("percent", "marks"), [(40, 0), (65, 1), (90, 2), (130, 4)])
def test_every_mark_that_has_gone_by_is_announced_and_logged_once(
    parts: Parts, name: str, percent: int, marks: int
) -> None:
    request_id = _ask(parts, name, received_at=_received(percent=percent))
    for _ in range(3):
        clock.run(parts)
    assert _told(parts, request_id) == MARKS[:marks]
    with parts.database.reading() as session:
        assert _logged(session, request_id) == MARKS[:marks]


def test_the_marks_come_as_the_time_goes_by(parts: Parts, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = _ask(parts, name)
    with parts.database.reading() as session:
        request = session.get_one(DeletionRequest, request_id)
    assert request.due_at is not None
    for percent, seen in zip(deadlines.MARKS, (1, 2, 4), strict=True):
        moment = deadlines.mark(request.received_at, request.due_at, percent)
        for at, expected in ((moment, _told(parts, request_id)), (moment + timedelta(seconds=1), MARKS[:seen])):
            monkeypatch.setattr("service.store.deadline_marks.now", lambda at=at: at)
            monkeypatch.setattr("service.store.requests.now", lambda at=at: at)
            clock.run(parts)
            assert _told(parts, request_id) == expected
    assert _states(parts, name) == ["quarantined"]


def test_eight_clocks_at_once_announce_each_mark_once(parts: Parts, name: str) -> None:
    found = [_ask(parts, name, f"train-{i}", received_at=_received(percent=130)) for i in range(5)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: clock.run(parts), range(8)))
    for request_id in found:
        assert _told(parts, request_id) == MARKS
        with parts.database.reading() as session:
            assert _logged(session, request_id) == MARKS


def test_a_request_that_cannot_be_announced_holds_no_other_up(
    parts: Parts, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = _ask(parts, name, "train-0", received_at=_received(percent=70))
    good = _ask(parts, name, "train-1", received_at=_received(percent=60))
    announce = deadline_marks.announce

    def faulty(session: Session, request_id: str) -> None:
        if request_id == bad:
            raise RuntimeError("what nobody foresaw")
        announce(session, request_id)

    monkeypatch.setattr(deadline_marks, "announce", faulty)
    clock.run(parts)
    assert (_told(parts, bad), _told(parts, good)) == ([], MARKS[:1])
    monkeypatch.undo()
    clock.run(parts)
    assert _told(parts, bad) == MARKS[:1], "it is tried again"


def test_a_request_that_has_ended_or_has_no_due_date_is_not_announced(parts: Parts, name: str) -> None:
    ended = _ask(parts, name, received_at=_received(percent=60))
    with parts.database.writing() as session:
        cancel.cancel(session, ended)
    timeless = _ask(parts, name, received_at=_received(percent=130), purpose="bias", method="scrub")
    clock.run(parts)
    assert _told(parts, ended) == _told(parts, timeless) == []


def test_what_is_announced_names_the_request_and_its_due_date_and_no_sample(parts: Parts, name: str) -> None:
    request_id = _ask(parts, name, received_at=_received(percent=60))
    clock.run(parts)
    with parts.database.reading() as session:
        (event,) = _announced(session, request_id)
        due_at = session.get_one(DeletionRequest, request_id).due_at
    assert due_at is not None
    assert event.data == {
        "request": request_id, "dataset": name, "status": "accepted", "due_at": due_at.isoformat(), "percent": 50,
    }  # fmt: skip


def test_a_due_date_missed_quarantines_what_knows_the_samples_until_the_request_is_withdrawn(
    parts: Parts, name: str
) -> None:
    factories.model(parts, name + "b", of=name)
    factories.version(parts, name + "b")
    request_id = _ask(parts, name, models=[name])
    _make_overdue(parts, request_id)
    assert _states(parts, name) == ["active"]
    clock.run(parts)
    assert _states(parts, name) == ["quarantined"]
    assert _states(parts, name + "b") == ["active"], "the request does not reach this model"
    with parts.database.reading() as session:
        (entry,) = audit.find(session, links={"request": request_id}, actions=["version.quarantined"], limit=10)
    assert json.loads(entry.payload)["reason"] == "due_date_missed"
    on_time = _ask(parts, name, "train-1", models=[name])
    with parts.database.writing() as session:
        cancel.cancel(session, request_id)
    assert _states(parts, name) == ["active"], "the other request has time left"
    with parts.database.writing() as session:
        cancel.cancel(session, on_time)


def _make_overdue(parts: Parts, request_id: str) -> None:
    """Have the request's due date pass, as time would."""
    received = now() - timedelta(days=40)
    due_at = deadlines.due(received, "UTC")
    with parts.database.writing() as session:
        values = {"received_at": received, "due_at": due_at, "next_mark_at": deadlines.mark(received, due_at, 50)}
        session.execute(update(DeletionRequest).where(DeletionRequest.id == request_id).values(**values))


def test_a_job_held_at_its_due_date_quarantines_too(parts: Parts, name: str) -> None:
    request_id = _ask(parts, name)
    claim = jobs.claim_next(parts.database, owner="w", lease_seconds=60)
    assert claim is not None
    with parts.database.writing() as session:
        job = jobs.hold_lease(session, claim)
        jobs.move(session, job, JobStatus.HELD, "job.held")
        session.flush()
        settling.settle(session, session.get_one(DeletionRequest, request_id), suppression_key=SECRETS.suppression)
    _make_overdue(parts, request_id)
    clock.run(parts)
    assert _states(parts, name) == ["quarantined"]


def test_a_version_that_appears_after_the_due_date_is_withheld_too(parts: Parts, name: str) -> None:
    request_id = _ask(parts, name)
    _make_overdue(parts, request_id)
    clock.run(parts)
    factories.version(parts, name)
    with parts.database.writing() as session:
        attaching.attach_open_requests(session, models.by_name(session, name))
    assert _states(parts, name) == ["quarantined", "quarantined"]


def test_a_request_that_comes_overdue_is_taken_in_flagged_and_stops_serving_at_once(parts: Parts, name: str) -> None:
    request_id = _ask(parts, name, received_at=datetime(2024, 1, 31, 12, tzinfo=UTC))
    assert _states(parts, name) == ["quarantined"]
    with parts.database.reading() as session:
        request = session.get_one(DeletionRequest, request_id)
        (entry,) = audit.find(session, links={"request": request_id}, actions=["request.accepted"], limit=10)
    assert (request.status, requests.is_overdue(request)) == (RequestStatus.ACCEPTED, True)
    assert json.loads(entry.payload)["overdue"] is True
    assert json.loads(entry.payload)["due_at"] == "2024-02-29T23:59:59+00:00"


def test_a_request_that_ended_in_time_is_not_overdue_later(parts: Parts, name: str) -> None:
    request_id = _ask(parts, name)
    with parts.database.writing() as session:
        request = cancel.cancel(session, request_id)
        request.due_at = now() + timedelta(milliseconds=1)
    with parts.database.reading() as session:
        request = session.get_one(DeletionRequest, request_id)
    assert request.due_at is not None
    assert request.due_at < now()
    assert not requests.is_overdue(request)
