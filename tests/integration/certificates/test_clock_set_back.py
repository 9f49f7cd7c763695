"""A clock that was set back keeps no certificate waiting, and no certificate tells of its time."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from service.evidence import verify
from service.evidence.verify import TrustedKey
from service.store import certificates, requests, residuals, signing_keys
from service.store.residuals import Artefact, Entry, State
from service.store.tables import AuditEntry, DeletionRequest, SigningKey
from service.store.types import now
from tests.clock import Clock
from tests.integration.certificates.place import Place, ask, issue, model, work
from workers import sweeper

BEHIND = (300, 3600, 40 * 86_400)


@contextmanager
def set_back(seconds: float) -> Iterator[Clock]:
    clock = Clock()
    clock.moment = now() - timedelta(seconds=seconds)
    with clock.installed():
        yield clock


def found_in(place: Place, request_id: str) -> Any:
    """Return what the request's certificate says, verified against the key's own record."""
    row = place.certificate(request_id)
    assert row is not None
    return verify.verify(row.bundle, trusted=[key_of(place, row.key_id)]).certificate


def key_of(place: Place, key_id: str) -> TrustedKey:
    with place.database.reading() as session:
        row = session.get_one(SigningKey, key_id)
    dates = {name: getattr(row, name) for name in ("not_before", "not_after")}
    return TrustedKey(pin=row.public_key, **{name: at.isoformat() for name, at in dates.items() if at is not None})


def logged(place: Place, action: str, request_id: str) -> datetime:
    about = f"deletion-request/{request_id}"
    with place.database.reading() as session:
        query = select(AuditEntry.time).where(AuditEntry.action == action, AuditEntry.subject == about)
        return datetime.fromisoformat(session.scalars(query).one())


@pytest.mark.parametrize("still_behind", [True, False])
@pytest.mark.parametrize("seconds", BEHIND)
def test_a_request_completed_while_the_clock_was_behind_has_its_certificate(
    place: Place, name: str, seconds: int, still_behind: bool
) -> None:
    ask(place, name, "train-0")
    issue(place)
    with set_back(seconds):
        request_id = ask(place, name, "train-1")
        if still_behind:
            issue(place)
    if not still_behind:
        issue(place)
    said = found_in(place, request_id)
    assert datetime.fromisoformat(said["request"]["completed_at"]) == logged(place, "request.completed", request_id)
    assert datetime.fromisoformat(said["issued_at"]) >= logged(place, "request.completed", request_id)


def test_one_that_was_worked_on_while_the_clock_went_back_tells_the_log_s_times(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    with set_back(3600):
        work(place)
        sweeper.sweep(place.bench, lambda _: None)
        issue(place)
    said = found_in(place, request_id)
    envelope = json.loads(place.certificate(request_id).bundle)["envelopes"]["provenance"]
    ran = json.loads(base64.b64decode(envelope["payload"]))["predicate"]["runDetails"]["metadata"]
    assert ran["startedOn"] <= ran["finishedOn"] == said["request"]["completed_at"]
    entries = json.loads(place.certificate(request_id).bundle)["log"]["entries"]
    times = {row["entry"]["seq"]: row["entry"]["time"] for row in entries}
    assert [r["at"] for r in said["residuals"]] == [times[r["log_index"]] for r in said["residuals"]]


def test_a_row_that_an_earlier_release_dated_by_a_wrong_clock_has_its_certificate(place: Place, name: str) -> None:
    request_id = ask(place, name, "train-0")
    with place.database.writing() as session:
        wrong = now() - timedelta(days=3)
        session.execute(
            update(DeletionRequest).where(DeletionRequest.id == request_id).values(completed_at=wrong, ended_at=wrong)
        )
    issue(place)
    assert found_in(place, request_id)["request"]["completed_at"] > wrong.isoformat()


def test_a_signing_key_younger_than_the_jump_signs_for_a_request_that_is_older(place: Place, name: str) -> None:
    request_id = ask(place, name, "train-0")
    with place.database.writing() as session:
        signing_keys.rotate(session, place.parts.settings)
    with set_back(3600):
        issue(place)
    assert found_in(place, request_id)["issued_at"]


def test_a_key_retired_while_the_clock_is_behind_leaves_its_certificates_good(place: Place, name: str) -> None:
    before = ask(place, name, "train-0")
    issue(place)
    with set_back(3600):
        with place.database.writing() as session:
            signing_keys.rotate(session, place.parts.settings)
        after = ask(place, name, "train-1")
        issue(place)
    assert found_in(place, before)["issued_at"] <= found_in(place, after)["issued_at"]


def test_a_key_revoked_while_the_clock_is_behind_is_not_revoked_from_before_it_was_made(
    place: Place, name: str
) -> None:
    with place.database.writing() as session:
        key_id = signing_keys.rotate(session, place.parts.settings).key_id
    with set_back(3600), place.database.writing() as session:
        signing_keys.revoke(session, key_id, reason="lost")
    with place.database.writing() as session:
        signing_keys.rotate(session, place.parts.settings)
        row = session.get_one(SigningKey, key_id)
    assert row.revoked_at is not None
    assert row.revoked_at >= row.not_before


def test_roots_follow_one_another_though_the_clock_went_back(place: Place, name: str) -> None:
    first = ask(place, name, "train-0")
    with set_back(3600):
        second = ask(place, name, "train-1", "audit-0")
    third = ask(place, name, "train-2")
    issue(place)
    one, other, last = (found_in(place, each)["dataset"] for each in (first, second, third))
    assert (one["root_after"], other["root_after"]) == (other["root_before"], last["root_before"])


def test_what_a_worker_keeps_is_not_waited_for_until_a_clock_that_was_ahead_is_caught_up_with(
    place: Place, name: str
) -> None:
    request_id = ask(place, name, "train-0")
    cache = Artefact(kind=residuals.CACHE, name=f"dataset/{name}/cache/away")
    entry = Entry(action="request.completed", kind="request", ref=request_id)
    with place.database.writing() as session:
        residuals.note(session, [request_id], cache, state=State.HELD, entry=entry)
        session.flush()
        request = requests.get(session, request_id)
        assert certificates.waits_for(session, request) == [cache.name]
        with set_back(40 * 86_400):
            assert certificates.waits_for(session, request) == []
