"""More time for a request, and when it will be done."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from service import deadlines
from service.store import (
    workers,
)
from service.store.tables import DeletionRequest, Job
from service.store.types import now
from tests.integration.decisions.deciding import (
    NOTE,
    URL,
    ask,
    change,
    decide,
    faults_of,
    log_of,
    read,
    read_job,
    refused,
)
from tests.stack import Stack


def test_an_extension_counts_from_receipt_and_the_jobs_follow(served: Stack, name: str) -> None:
    received = now() - timedelta(days=20)
    request = ask(served, name, received_at=received.isoformat())
    answer = decide(served, request, "extension", months=2, reason="Many systems are concerned.").raise_for_status()
    expected = deadlines.due(received, "Europe/Berlin", extended_by=2)
    document = answer.json()
    assert datetime.fromisoformat(document["due_at"]) == expected
    assert document["extended_by"] == 2
    assert read_job(served, request["jobs"][0]["id"]).due_at == expected
    (payload,) = log_of(served, request, "request.extended")
    assert datetime.fromisoformat(payload["due_before"]) == datetime.fromisoformat(request["due_at"])
    assert (datetime.fromisoformat(payload["due_at"]), payload["months"]) == (expected, 2)


def test_a_job_shared_with_a_more_urgent_request_stays_as_urgent(served: Stack, name: str) -> None:
    one, other = ask(served, name, "train-0"), ask(served, name, "train-1")
    assert one["jobs"] == other["jobs"]
    decide(served, one, "extension", months=1, reason="Complex.").raise_for_status()
    assert read_job(served, one["jobs"][0]["id"]).due_at == datetime.fromisoformat(other["due_at"])


def test_three_months_from_receipt_are_the_most(served: Stack, name: str) -> None:
    request = ask(served, name)
    for _ in range(2):
        decide(served, request, "extension", months=1, reason="Complex.").raise_for_status()
    before = read(served, request)
    refused(decide(served, request, "extension", months=1, reason="Complex."), 409, "extension_beyond_three_months")
    assert read(served, request) == before


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"months": 3, "reason": "x"}, {("/months", "less_than_equal")}),
        ({"months": 0, "reason": " "}, {("/months", "greater_than_equal"), ("/reason", "string_too_short")}),
        ({"months": True, "reason": "x"}, {("/months", "int_type")}),
        ({"months": 1}, {("/reason", "missing")}),
        ({"months": 1, "reason": "x" * 501}, {("/reason", "string_too_long")}),
        ({"months": 1, "reason": "a\x00b"}, {("/reason", "string_pattern_mismatch")}),
        ({"months": 1, "reason": "x", "until": "later"}, {("/until", "extra_forbidden")}),
    ],
)
def test_a_faulty_extension_is_refused_with_every_fault(
    served: Stack, name: str, body: dict[str, Any], faults: set[tuple[str, str]]
) -> None:
    request = ask(served, name)
    assert faults_of(decide(served, request, "extension", **body)) == faults
    assert read(served, request)["extended_by"] == 0


def test_no_extension_after_the_due_date_or_without_one_or_after_the_end(served: Stack, name: str) -> None:
    late = ask(served, name, received_at=(now() - timedelta(days=40)).isoformat())
    assert late["overdue"] is True
    refused(decide(served, late, "extension", months=1, reason="x"), 409, "due_date_passed")
    timeless = ask(served, name, purpose="bias", method="scrub")
    refused(decide(served, timeless, "extension", months=1, reason="x"), 409, "no_due_date")
    ended = ask(served, name, "audit-0")
    refused(decide(served, ended, "extension", months=1, reason="x"), 409, "deletion_request_is_completed")


def test_an_extension_takes_back_the_marks_that_have_not_gone_by_any_more(served: Stack, name: str) -> None:
    request = ask(served, name, received_at=(now() - timedelta(days=20)).isoformat())
    served.until(lambda: log_of(served, request, "request.deadline_50") or None, seconds=60)
    decide(served, request, "extension", months=2, reason="Complex.").raise_for_status()
    with served.database.reading() as session:
        row = session.get_one(DeletionRequest, request["id"])
    assert row.due_at is not None
    assert (row.mark_reached, row.next_mark_at) == (0, deadlines.mark(row.received_at, row.due_at, 50))


def _past_job(served: Stack, name: str, *, seconds: float) -> None:
    """Have a job of the model have been published that took so long."""
    request = ask(served, name, "train-39")
    with served.database.writing() as session:
        job = session.get_one(Job, request["jobs"][0]["id"])
        job.status, job.started_at, job.finished_at = "published", now() - timedelta(seconds=seconds), now()
    change(served, request, status="completed")


def test_the_forecast_is_made_from_the_queue_and_past_jobs_of_the_model(served: Stack, name: str) -> None:
    request = ask(served, name)
    with served.database.writing() as session:
        workers.seen(session, "w")
    assert request["forecast_at"] is None, "not when it is taken in"
    assert read(served, request)["forecast_at"] is None, "nothing is known of the model yet"
    served.client.delete(f"{URL}/{request['id']}").raise_for_status()
    _past_job(served, name, seconds=600)
    request = ask(served, name)
    document = read(served, request)
    wait = datetime.fromisoformat(document["forecast_at"]) - now()
    assert timedelta(seconds=580) < wait < timedelta(seconds=601)
    assert document["forecast_overdue"] is False
    listed = served.client.get(URL, params={"dataset": name}).json()["items"]
    assert {each["forecast_at"] for each in listed} == {None}
    change(served, request, due_at=now() + timedelta(seconds=60))
    assert read(served, request)["forecast_overdue"] is True
    decide(served, request, "hold", reason=NOTE).raise_for_status()
    assert read(served, request)["forecast_at"] is None, "nobody knows when it will be released"
    assert read(served, {"id": listed[-1]["id"]})["forecast_at"] is None, "it has ended"
