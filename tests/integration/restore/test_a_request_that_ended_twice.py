"""A request that was open in the backup and ended before the loss ends again, and its certificate verifies."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select

from service import backup_cli
from service.app import create_app
from service.evidence import verify
from service.settings import Settings
from service.store import dataset_roots, decisions
from service.store.tables import AuditEntry, Dataset, DeletionRequest, Job
from tests import factories
from tests.integration.certificates.place import Place, issue, work
from tests.integration.restore.services import Case, Service
from workers import sweeper
from workers.bench import Bench


@contextmanager
def _at(settings: Settings) -> Iterator[Place]:
    bench = Bench.open(settings)
    app = create_app(settings)
    try:
        yield Place(bench=bench, app=app)
    finally:
        app.state.parts.database.dispose()
        bench.database.dispose()


def _complete(settings: Settings, *, more: float = 0.0) -> bytes:
    with _at(settings) as place:
        weights = work(place, more=more)
        sweeper.sweep(place.bench, lambda _: None)
    return weights


def _restored(case: Case) -> Service:
    """Lose the service, restore it, replay, and give its model weights again: those of the backup are retired."""
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing=None)
    factories.version(new)
    new.database.dispose()
    return new


def _release(service: Service, request_id: str) -> None:
    with service.database.writing() as session:
        decisions.release(session, request_id, by="key_x", suppression_key=service.secrets.suppression)


def _seqs(place: Place, action: str, subject: str) -> list[int]:
    with place.database.reading() as session:
        query = select(AuditEntry.seq).where(AuditEntry.action == action, AuditEntry.subject == subject)
        return list(session.scalars(query.order_by(AuditEntry.seq)))


def _found_in(place: Place, request_id: str, weights: bytes) -> tuple[Any, list[Any]]:
    """Return what the verified certificate says, and the log entries in its bundle."""
    answer = place.get(f"/v1/deletion-requests/{request_id}/certificate")
    assert answer.status_code == 200, answer.text
    given = {"new": hashlib.sha256(weights).hexdigest()}
    said = verify.verify(answer.content, trusted=place.trusted(), weights=given).certificate
    return said, [row["entry"] for row in json.loads(answer.content)["log"]["entries"]]


@pytest.mark.parametrize("held", [False, True], ids=["open", "held"])
def test_a_request_that_ended_again_after_a_restore_has_its_certificate(case: Case, held: bool) -> None:
    old = case.first
    request_id = old.erase("train-1")
    if held:
        with old.database.writing() as session:
            decisions.hold(session, request_id, note="a court says so", by="key_x")
    case.back_up()
    if held:
        _release(old, request_id)
    with old.database.writing() as session:
        decisions.extend(session, request_id, months=1, note="many requests", by="key_x", zone="UTC")
    _complete(old.settings)
    new = _restored(case)
    weights = _complete(new.settings, more=1.0)
    with _at(new.settings) as place:
        issue(place)
        about = f"deletion-request/{request_id}"
        _, last = _seqs(place, "request.completed", about)
        said, shown = _found_in(place, request_id, weights)
        restored = [entry for entry in shown if entry["action"] == "service.restored"]
        assert [e["seq"] for e in shown if (e["action"], e["subject"]) == ("request.completed", about)] == [last]
        assert [e["payload"]["log_size"] > e["payload"]["backup_log_size"] for e in restored] == [True], "it says why"
        assert not [e for e in shown if e["action"] == "request.extended"], "extensions do not come back"
        job = said["models"][0]["job"]
        assert said["models"][0]["result"]["log_index"] == _seqs(place, "job.published", f"job/{job}")[-1]
        with place.database.reading() as session:
            assert session.get_one(DeletionRequest, request_id).certificate_id == said["id"]
            assert session.scalars(select(Job.id).where(Job.version_id.is_not(None))).one() == job


def test_a_job_that_comes_to_the_lost_weights_again_keeps_no_certificate_waiting(case: Case) -> None:
    """Retraining does: the bytes of the version that was lost are then those of the new one, and are not deleted."""
    request_id = case.first.erase("train-1")
    case.back_up()
    first = _complete(case.first.settings)
    new = _restored(case)
    assert _complete(new.settings) == first
    with _at(new.settings) as place:
        issue(place)
        said, _ = _found_in(place, request_id, first)
    result = said["models"][0]["result"]["sha256"]
    assert [r["name"] for r in said["residuals"] if r["sha256"] == result] == []
    assert "model/m/version/1" in [r["name"] for r in said["residuals"]]


def test_roots_go_by_the_last_time_that_a_request_ended(case: Case) -> None:
    old = case.first
    first, second = old.erase("train-1"), old.erase("train-2")
    case.back_up()
    _complete(old.settings)
    new = _restored(case)
    _complete(new.settings, more=1.0)
    with _at(new.settings) as place, place.database.reading() as session:
        dataset = session.get_one(Dataset, session.get_one(DeletionRequest, first).dataset_id)
        ended = {each: _seqs(place, "request.completed", f"deletion-request/{each}") for each in (first, second)}
        assert [len(seqs) for seqs in ended.values()] == [2, 2]
        rows = session.execute(dataset_roots._completions(dataset)).all()
        assert sorted((row.ref, row.seq) for row in rows) == sorted((each, seqs[-1]) for each, seqs in ended.items())
