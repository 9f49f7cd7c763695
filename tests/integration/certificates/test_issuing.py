"""Each certificate is issued once, and one that cannot be issued keeps no other waiting."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, select

from service import certifying
from service.deps import Parts
from service.store import (
    certificates,
    keys,
)
from service.store.tables import Certificate, WebhookEndpoint, WebhookEvent
from tests.integration.certificates.place import Place, ask, issue


def test_eight_that_issue_at_once_issue_one(place: Place, name: str) -> None:
    with place.database.writing() as session:
        key, _ = keys.create(session, name="listener", scopes=["requests:read"])
        session.add(
            WebhookEndpoint(
                id=f"listener-{name}"[:40],
                key_id=key.id,
                url="https://receiver.example",
                events=[certificates.ISSUED],
                description="",
                enabled=True,
                secret=b"s",
            )
        )
    request_id = ask(place, name, "train-0")
    start = threading.Barrier(8)

    def run() -> None:
        start.wait()
        issue(place)

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(run) for _ in range(8)]:
            each.result()
    issue(place)
    with place.database.reading() as session:
        rows = session.scalars(select(Certificate).where(Certificate.request_id == request_id)).all()
        told = [e for e in session.scalars(select(WebhookEvent)) if e.data.get("request") == request_id]
    assert len(rows) == 1
    assert len(place.entries(certificates.ISSUED, request_id)) == 1
    assert [event.type for event in told if event.type == certificates.ISSUED] == [certificates.ISSUED]


def test_a_crash_before_the_commit_leaves_nothing_and_the_next_turn_issues(
    place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = ask(place, name, "train-0")
    keep = certificates.keep

    def crash(*given: Any) -> bool:
        keep(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(certificates, "keep", crash)
    with pytest.raises(KeyboardInterrupt):
        issue(place)
    monkeypatch.undo()
    assert place.certificate(request_id) is None
    issue(place)
    assert place.certificate(request_id) is not None
    assert len(place.entries(certificates.ISSUED, request_id)) == 1


def test_one_that_cannot_be_made_holds_no_other_up(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = ask(place, name, "train-0"), ask(place, name, "train-1")
    make = certifying._make

    def fail(parts: Parts, request_id: str, *given: Any) -> Any:
        if request_id == bad:
            raise LookupError("the log lacks an entry")
        return make(parts, request_id, *given)

    monkeypatch.setattr(certifying, "_make", fail)
    issuer = certifying.Issuer()
    issuer(place.parts)
    assert (place.certificate(bad), place.certificate(good) is not None) == (None, True)
    monkeypatch.undo()
    issuer(place.parts)
    assert place.certificate(bad) is None, "tried again, but not at once"
    monkeypatch.setattr(time, "monotonic", lambda: time.time() + certifying.RETRY_SECONDS)
    issuer(place.parts)
    assert place.certificate(bad) is not None


def test_those_that_cannot_be_made_take_no_others_place_in_the_page(
    place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(place)
    bad, good = ask(place, name, "train-0"), ask(place, name, "train-1")
    make, page = certifying._make, certificates.without

    def fail(parts: Parts, request_id: str, *given: Any) -> Any:
        if request_id == bad:
            raise LookupError("the log lacks an entry")
        return make(parts, request_id, *given)

    monkeypatch.setattr(certifying, "_make", fail)
    monkeypatch.setattr(certificates, "without", lambda session, **given: page(session, 1, **given))
    issuer = certifying.Issuer()
    for _ in range(3):
        issuer(place.parts)
    assert (place.certificate(bad), place.certificate(good) is not None) == (None, True)
    monkeypatch.undo()
    issue(place)


def test_a_turn_with_nothing_to_do_is_one_query_that_an_index_answers(place: Place, name: str) -> None:
    ask(place, name, "train-0")
    issue(place)
    asked: list[tuple[str, Any]] = []
    listen = ("before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    event.listen(place.parts.database.engine, *listen)
    issue(place)
    event.remove(place.parts.database.engine, *listen)
    asked = [call for call in asked if call[0].startswith("SELECT")]
    assert len(asked) == 1
    if place.database.engine.dialect.name == "sqlite":
        with place.database.engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[0][0]}", asked[0][1]).all()
        assert "ix_deletion_requests_without_certificate" in str(plan)
