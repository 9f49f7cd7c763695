"""More time, denials, holds and releases: what each does to the jobs, the samples, the versions and the log."""

import hmac
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text, update

from service import deadlines
from service.lifecycle import JobStatus
from service.store import (
    attaching,
    audit,
    candidates,
    holds,
    job_phase,
    jobs,
    request_keys,
    requests,
    residuals,
    workers,
)
from service.store.jobs import Claim, LeaseLost
from service.store.tables import Attempt, AuditEntry, DeletionRequest, Job, RequestDecision, Sample
from service.store.types import now
from tests import factories
from tests.stack import Stack, running

URL = "/v1/deletion-requests"
NOTE = "The person's counsel asked us to wait."


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {"time_zone": "Europe/Berlin"}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(tmp_path_factory.mktemp("decisions"), worker=False, **settings) as found:
        yield found


@pytest.fixture
def name(served: Stack, request: pytest.FixtureRequest) -> str:
    """A dataset with one trained model of the same name; whatever earlier tests left queued is out of the way."""
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with served.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(served, found)
    factories.model(served, found, of=found)
    factories.version(served, found)
    return found


def _ask(served: Stack, name: str, *named: str, **body: Any) -> Any:
    ids = [f"{name}-{sample}" for sample in named or ["train-0"]]
    answer = served.client.post(URL, json={"dataset": name, "sample_ids": ids, "method": "finetune", **body})
    return answer.raise_for_status().json()


def _decide(served: Stack, request: Any, what: str, **body: Any) -> httpx.Response:
    return served.client.post(f"{URL}/{request['id']}/{what}", json=body or None)


def _get(served: Stack, request: Any) -> Any:
    return served.client.get(f"{URL}/{request['id']}").raise_for_status().json()


def _refused(answer: httpx.Response, status: int, code: str) -> Any:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def _faults(answer: httpx.Response) -> set[tuple[str, str]]:
    return {(fault["pointer"], fault["code"]) for fault in _refused(answer, 422, "invalid_request")["errors"]}


def _claim(served: Stack) -> Claim | None:
    return jobs.claim_next(served.database, owner="w", lease_seconds=60)


def _change(served: Stack, request: Any, **values: Any) -> None:
    with served.database.writing() as session:
        session.execute(update(DeletionRequest).where(DeletionRequest.id == request["id"]).values(**values))


def _log(served: Stack, request: Any, action: str) -> list[Any]:
    with served.database.reading() as session:
        found = audit.find(session, links={"request": request["id"]}, actions=[action], limit=100)
    return [json.loads(entry.payload) for entry in found]


def _job(served: Stack, job_id: str) -> Job:
    with served.database.reading() as session:
        return session.get_one(Job, job_id)


def _sample_state(served: Stack, sample_id: str) -> str | None:
    with served.database.reading() as session:
        return session.scalar(select(Sample.state).where(Sample.sample_id == sample_id))


# More time


def test_an_extension_counts_from_receipt_and_the_jobs_follow(served: Stack, name: str) -> None:
    received = now() - timedelta(days=20)
    request = _ask(served, name, received_at=received.isoformat())
    answer = _decide(served, request, "extension", months=2, reason="Many systems are concerned.").raise_for_status()
    expected = deadlines.due(received, "Europe/Berlin", extended_by=2)
    document = answer.json()
    assert datetime.fromisoformat(document["due_at"]) == expected
    assert document["extended_by"] == 2
    assert _job(served, request["jobs"][0]["id"]).due_at == expected
    (payload,) = _log(served, request, "request.extended")
    assert datetime.fromisoformat(payload["due_before"]) == datetime.fromisoformat(request["due_at"])
    assert (datetime.fromisoformat(payload["due_at"]), payload["months"]) == (expected, 2)


def test_a_job_shared_with_a_more_urgent_request_stays_as_urgent(served: Stack, name: str) -> None:
    one, other = _ask(served, name, "train-0"), _ask(served, name, "train-1")
    assert one["jobs"] == other["jobs"]
    _decide(served, one, "extension", months=1, reason="Complex.").raise_for_status()
    assert _job(served, one["jobs"][0]["id"]).due_at == datetime.fromisoformat(other["due_at"])


def test_three_months_from_receipt_are_the_most(served: Stack, name: str) -> None:
    request = _ask(served, name)
    for _ in range(2):
        _decide(served, request, "extension", months=1, reason="Complex.").raise_for_status()
    before = _get(served, request)
    _refused(_decide(served, request, "extension", months=1, reason="Complex."), 409, "extension_beyond_three_months")
    assert _get(served, request) == before


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
    request = _ask(served, name)
    assert _faults(_decide(served, request, "extension", **body)) == faults
    assert _get(served, request)["extended_by"] == 0


def test_no_extension_after_the_due_date_or_without_one_or_after_the_end(served: Stack, name: str) -> None:
    late = _ask(served, name, received_at=(now() - timedelta(days=40)).isoformat())
    assert late["overdue"] is True
    _refused(_decide(served, late, "extension", months=1, reason="x"), 409, "due_date_passed")
    timeless = _ask(served, name, purpose="bias", method="scrub")
    _refused(_decide(served, timeless, "extension", months=1, reason="x"), 409, "no_due_date")
    ended = _ask(served, name, "audit-0")
    _refused(_decide(served, ended, "extension", months=1, reason="x"), 409, "deletion_request_is_completed")


def test_an_extension_takes_back_the_marks_that_have_not_gone_by_any_more(served: Stack, name: str) -> None:
    request = _ask(served, name, received_at=(now() - timedelta(days=20)).isoformat())
    served.until(lambda: _log(served, request, "request.deadline_50") or None, seconds=60)
    _decide(served, request, "extension", months=2, reason="Complex.").raise_for_status()
    with served.database.reading() as session:
        row = session.get_one(DeletionRequest, request["id"])
    assert row.due_at is not None
    assert (row.mark_reached, row.next_mark_at) == (0, deadlines.mark(row.received_at, row.due_at, 50))


# Denials


@pytest.mark.parametrize(
    "reason",
    [
        "suspected_fraud", "insufficient_verification", "no_match", "claim_not_covered", "outside_jurisdiction",
        "too_many_requests", "legal_obligation", "other",
    ],
)  # fmt: skip
def test_a_denial_gives_the_samples_and_the_versions_back(served: Stack, name: str, reason: str) -> None:
    strict = name + "strict"
    factories.model(served, strict, of=name, policy={"stop_serving": "immediately"})
    factories.version(served, strict)
    request = _ask(served, name)
    assert served.client.get(f"/v1/models/{strict}/versions/1").json()["state"] == "quarantined"
    answer = _decide(served, request, "deny", reason=reason, note=NOTE).raise_for_status()
    document = answer.json()
    assert (document["status"], document["ended_at"] is not None) == ("denied", True)
    assert {job["status"] for job in document["jobs"]} == {"cancelled"}
    assert [(each["kind"], each["reason"]) for each in document["decisions"]] == [("denial", reason)]
    assert served.client.get(f"/v1/models/{strict}/versions/1").json()["state"] == "active"
    assert _sample_state(served, f"{name}-train-0") == "live"
    (payload,) = _log(served, request, "request.denied")
    assert payload["reason"] == reason


def test_a_denial_of_work_under_way_discards_it(served: Stack, name: str) -> None:
    request = _ask(served, name)
    claim = _claim(served)
    assert claim is not None
    assert _get(served, request)["status"] == "in_progress"
    _decide(served, request, "deny", reason="suspected_fraud").raise_for_status()
    with pytest.raises(LeaseLost), served.database.writing() as session:
        job_phase.begin_evaluation(session, claim)
    assert _job(served, claim.job_id).status == JobStatus.CANCELLED
    with served.database.reading() as session:
        assert session.get_one(Attempt, (claim.job_id, claim.fence)).outcome == "discarded"
    assert _claim(served) is None


def test_a_shared_job_begins_anew_for_the_others(served: Stack, name: str) -> None:
    one, other = _ask(served, name, "train-0"), _ask(served, name, "train-1")
    claim = _claim(served)
    assert claim is not None
    assert _decide(served, one, "deny", reason="no_match").json()["jobs"] == []
    with pytest.raises(LeaseLost), served.database.writing() as session:
        jobs.hold_lease(session, claim)
    assert _job(served, claim.job_id).attempts == 0, "the attempt does not count"
    again = _claim(served)
    assert again is not None
    assert (again.job_id, again.fence) == (claim.job_id, claim.fence + 1)
    assert _get(served, other)["status"] == "in_progress"


@pytest.mark.parametrize("approved", [False, True])
@pytest.mark.parametrize("decision", [("deny", {"reason": "no_match"}), ("hold", {"reason": NOTE})])
def test_no_model_that_forgot_a_request_which_left_is_published_for_the_others(
    served: Stack, name: str, decision: tuple[str, dict[str, str]], approved: bool
) -> None:
    one, other = _ask(served, name, "train-0"), _ask(served, name, "train-1")
    job_id = one["jobs"][0]["id"]
    with served.database.writing() as session:
        job = session.get_one(Job, job_id)
        job.status, job.rung, job.attempts = JobStatus.HELD, "finetune", 1
        job.rungs = [{"method": "finetune", "verdict": "fail"}]
        candidates.keep(session, job, sha256=f"{abs(hash(name)):064x}", size=7)
    for request in (one, other):
        _change(served, request, status="on_hold", started_at=now())
    if approved:
        served.client.post(f"/v1/jobs/{job_id}/approve").raise_for_status()
    _decide(served, one, decision[0], **decision[1]).raise_for_status()
    job = _job(served, job_id)
    assert (job.status, job.candidate_sha256, job.approved_by, job.rung) == (JobStatus.QUEUED, None, None, None)
    assert [rung.get("before_retry") for rung in job.rungs] == [True], "the ladder begins anew"
    assert _get(served, other)["status"] == "in_progress"
    claim = _claim(served)
    assert claim is not None
    assert claim.job_id == job_id


def test_the_ledger_says_what_became_of_a_denied_requests_candidate(served: Stack, name: str) -> None:
    request = _ask(served, name)
    sha256 = f"{abs(hash(name)):064x}"
    with served.database.writing() as session:
        job = session.get_one(Job, request["jobs"][0]["id"])
        job.status = JobStatus.HELD
        candidates.keep(session, job, sha256=sha256, size=7)
    _change(served, request, status="on_hold")
    _decide(served, request, "deny", reason="no_match").raise_for_status()
    [line] = served.client.get(f"{URL}/{request['id']}/residuals").json()["items"]
    assert (line["kind"], line["sha256"], line["state"]) == ("candidate", sha256, "dropped")
    with served.database.reading() as session:
        assert sha256 in residuals.detached(session), "a sweep deletes the bytes and proves them gone"


def test_work_that_is_published_cannot_be_denied(served: Stack, name: str) -> None:
    factories.model(served, name + "b", of=name)
    factories.version(served, name + "b")
    request = _ask(served, name)
    with served.database.writing() as session:
        job = session.get_one(Job, request["jobs"][0]["id"])
        job.status, job.finished_at = JobStatus.PUBLISHED, now()
    problem = _refused(_decide(served, request, "deny", reason="no_match"), 409, "work_cannot_be_undone")
    assert name in problem["detail"]
    assert _get(served, request)["status"] == "accepted"


def test_a_request_whose_job_failed_can_be_denied(served: Stack, name: str) -> None:
    request = _ask(served, name)
    with served.database.writing() as session:
        session.get_one(Job, request["jobs"][0]["id"]).status = JobStatus.FAILED
    _change(served, request, status="failed")
    assert _decide(served, request, "deny", reason="claim_not_covered").json()["status"] == "denied"


def test_what_has_ended_cannot_be_denied_or_held(served: Stack, name: str) -> None:
    completed, cancelled, denied = _ask(served, name, "audit-0"), _ask(served, name), _ask(served, name)
    served.client.delete(f"{URL}/{cancelled['id']}").raise_for_status()
    _decide(served, denied, "deny", reason="no_match").raise_for_status()
    for request, status in ((completed, "completed"), (cancelled, "cancelled"), (denied, "denied")):
        code = f"deletion_request_is_{status}"
        _refused(_decide(served, request, "deny", reason="no_match"), 409, code)
        _refused(_decide(served, request, "hold", reason="x"), 409, code)


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"reason": "dislike"}, {("/reason", "literal_error")}),
        ({"reason": "other"}, {("/note", "note_required")}),
        ({"reason": "other", "note": "  "}, {("/note", "string_too_short")}),
        ({"note": "x" * 501}, {("/reason", "missing"), ("/note", "string_too_long")}),
    ],
)
def test_a_faulty_denial_is_refused_with_every_fault(
    served: Stack, name: str, body: dict[str, Any], faults: set[tuple[str, str]]
) -> None:
    request = _ask(served, name)
    assert _faults(_decide(served, request, "deny", **body)) == faults
    assert _get(served, request)["status"] == "accepted"


@pytest.mark.parametrize("what", ["extension", "deny", "hold", "release"])
def test_a_decision_about_no_request_is_not_found(served: Stack, what: str) -> None:
    bodies: dict[str, Any] = {
        "extension": {"months": 1, "reason": "x"}, "deny": {"reason": "no_match"}, "hold": {"reason": "x"},
        "release": {},
    }  # fmt: skip
    _refused(_decide(served, {"id": "req_nobody"}, what, **bodies[what]), 404, "deletion_request_not_found")
    with served.client_with("requests:read") as reader:
        _refused(reader.post(f"{URL}/req_nobody/{what}", json=bodies[what]), 403, "forbidden")


# What people write


def test_what_is_written_is_shown_and_the_log_holds_its_commitment_alone(served: Stack, name: str) -> None:
    request = _ask(served, name)
    _decide(served, request, "extension", months=1, reason=NOTE).raise_for_status()
    _decide(served, request, "hold", reason=NOTE).raise_for_status()
    _decide(served, request, "release").raise_for_status()
    _decide(served, request, "deny", reason="other", note=NOTE).raise_for_status()
    decided = _get(served, request)["decisions"]
    assert [each["kind"] for each in decided] == ["extension", "hold", "release", "denial"]
    logged = [_log(served, request, f"request.{action}")[0] for action in ("extended", "held", "denied")]
    for each, payload in zip([decided[0], decided[1], decided[3]], logged, strict=True):
        assert each["note"] == NOTE
        opened = hmac.digest(bytes.fromhex(each["note_key"]), NOTE.encode(), "sha256").hex()
        assert payload["note_commitment"] == opened
    with served.database.reading() as session:
        everything = session.scalars(select(AuditEntry.payload)).all()
        events = session.execute(text("SELECT data FROM events")).all()
    assert not any("counsel" in str(each) for each in (*everything, *events))


def test_what_is_written_goes_with_the_requests_key_and_what_was_decided_stays(served: Stack, name: str) -> None:
    request = _ask(served, name)
    _decide(served, request, "deny", reason="other", note=NOTE).raise_for_status()
    with served.database.writing() as session:
        request_keys.shred(session, request["id"], reason="test")
    (left,) = _get(served, request)["decisions"]
    assert (left["kind"], left["reason"], left["note"], left["note_key"]) == ("denial", "other", None, None)
    assert "note_commitment" in _log(served, request, "request.denied")[0]


@pytest.mark.parametrize("shape", ["{}", "about {}.", "({})", "{}\nand more"])
def test_a_text_that_names_a_sample_of_the_request_is_refused_unheard(served: Stack, name: str, shape: str) -> None:
    request = _ask(served, name, "train-0", "train-1")
    said = shape.format(f"{name}-train-1")
    for what, body, pointer in (
        ("extension", {"months": 1, "reason": said}, "/reason"),
        ("deny", {"reason": "other", "note": said}, "/note"),
        ("hold", {"reason": said}, "/reason"),
    ):
        answer = _decide(served, request, what, **body)
        assert _faults(answer) == {(pointer, "names_a_sample")}
        assert f"{name}-train-1" not in answer.text
    with served.database.reading() as session:
        mine = select(func.count()).where(RequestDecision.request_id == request["id"])
        assert session.scalar(mine) == 0
    _decide(served, request, "hold", reason=f"{name}-train-12 is another one").raise_for_status()


# Holds


def test_a_held_requests_queued_job_does_not_start_until_it_is_released(served: Stack, name: str) -> None:
    request = _ask(served, name)
    document = _decide(served, request, "hold", reason=NOTE).raise_for_status().json()
    assert (document["status"], document["error"]["code"]) == ("on_hold", "legal_hold")
    assert document["due_at"] == request["due_at"], "the clock goes on"
    assert _claim(served) is None
    assert _decide(served, request, "release").raise_for_status().json()["status"] == "accepted"
    claim = _claim(served)
    assert claim is not None
    assert claim.job_id == request["jobs"][0]["id"]


def test_what_runs_when_a_request_is_held_is_not_published_and_begins_anew(served: Stack, name: str) -> None:
    request = _ask(served, name)
    claim = _claim(served)
    assert claim is not None
    _decide(served, request, "hold", reason=NOTE).raise_for_status()
    with pytest.raises(LeaseLost), served.database.writing() as session:
        jobs.hold_lease(session, claim)
    assert _claim(served) is None
    assert _decide(served, request, "release").json()["status"] == "in_progress"
    again = _claim(served)
    assert again is not None
    assert again.fence == claim.fence + 1


def test_a_hold_stops_one_request_and_not_those_it_shares_a_job_with(served: Stack, name: str) -> None:
    one, other = _ask(served, name, "train-0"), _ask(served, name, "train-1")
    held = _decide(served, one, "hold", reason=NOTE).json()
    assert held["jobs"][0]["id"] != other["jobs"][0]["id"]
    own = _job(served, held["jobs"][0]["id"])
    assert own.policy_digest == _job(served, other["jobs"][0]["id"]).policy_digest, "the bar does not move"
    third = _ask(served, name, "train-2")
    assert third["jobs"][0]["id"] == other["jobs"][0]["id"], "nobody joins what is held"
    claim = _claim(served)
    assert claim is not None
    assert claim.job_id == other["jobs"][0]["id"]


def test_a_version_that_appears_meanwhile_is_worked_on_after_the_release(served: Stack, name: str) -> None:
    request = _ask(served, name)
    _decide(served, request, "hold", reason=NOTE).raise_for_status()
    factories.model(served, name + "late", of=name)
    content = factories.safetensors(w=[3.0, float(len(name))])
    headers = {"Content-Type": "application/vnd.safetensors"}
    served.client.post(f"/v1/models/{name}late/versions", content=content, headers=headers).raise_for_status()
    assert {job["model"] for job in _get(served, request)["jobs"]} == {name}
    released = _decide(served, request, "release").raise_for_status().json()
    assert {job["model"] for job in released["jobs"]} == {name, name + "late"}


def test_a_stuck_job_of_a_held_request_waits_even_if_it_is_tried_again(served: Stack, name: str) -> None:
    request = _ask(served, name)
    job_id = request["jobs"][0]["id"]
    with served.database.writing() as session:
        session.get_one(Job, job_id).status = JobStatus.FAILED
    _change(served, request, status="failed")
    assert _decide(served, request, "hold", reason=NOTE).json()["status"] == "on_hold"
    assert _decide(served, request, "release").json()["status"] == "failed", "its job waits for a person still"
    _decide(served, request, "hold", reason=NOTE).raise_for_status()
    served.client.post(f"/v1/jobs/{job_id}/retry").raise_for_status()
    assert _get(served, request)["status"] == "on_hold"
    assert _claim(served) is None
    assert _decide(served, request, "release").json()["status"] == "accepted"
    assert _claim(served) is not None


def test_a_hold_by_a_person_and_one_by_a_model_are_lifted_apart(served: Stack, name: str) -> None:
    request = _ask(served, name, method="retrain")
    _decide(served, request, "hold", reason=NOTE).raise_for_status()
    factories.model(served, name + "bare", of=name, recipe=None)
    content = factories.safetensors(w=[4.0, float(len(name))])
    headers = {"Content-Type": "application/vnd.safetensors"}
    served.client.post(f"/v1/models/{name}bare/versions", content=content, headers=headers).raise_for_status()
    released = _decide(served, request, "release").raise_for_status().json()
    assert (released["status"], released["error"]["code"]) == ("on_hold", "cannot_be_worked_on")
    _refused(_decide(served, request, "release"), 409, "not_on_hold_by_a_person")
    claim = _claim(served)
    assert claim is not None, "the other model's job goes on"


def test_a_request_that_also_needs_approval_starts_when_both_holds_are_lifted(served: Stack, name: str) -> None:
    request = _ask(served, name)
    _decide(served, request, "hold", reason=NOTE).raise_for_status()
    with served.database.writing() as session:
        found = requests.get(session, request["id"])
        holds.hold(session, found, requests.APPROVAL_NEEDED, "Somebody must look at it.")
    released = _decide(served, request, "release").raise_for_status().json()
    assert (released["status"], released["error"]["code"]) == ("on_hold", "approval_needed")
    assert _claim(served) is None
    with served.database.writing() as session:
        found = requests.get(session, request["id"])
        holds.lift(session, found, requests.APPROVAL_NEEDED)
        queued = attaching.take_up(session, found, suppression_key=b"s" * 32)
    assert [each.job.id for each in queued] == [request["jobs"][0]["id"]]
    assert _claim(served) is not None


def test_a_request_is_held_once_and_released_once(served: Stack, name: str) -> None:
    request = _ask(served, name)
    _refused(_decide(served, request, "release"), 409, "not_on_hold_by_a_person")
    _decide(served, request, "hold", reason=NOTE).raise_for_status()
    _refused(_decide(served, request, "hold", reason=NOTE), 409, "already_on_hold")
    _decide(served, request, "release").raise_for_status()
    _refused(_decide(served, request, "release"), 409, "not_on_hold_by_a_person")
    assert len(_log(served, request, "request.held")) == len(_log(served, request, "request.released")) == 1


def test_a_held_request_can_be_denied_and_if_nothing_was_started_cancelled(served: Stack, name: str) -> None:
    denied, cancelled = _ask(served, name, "train-0"), _ask(served, name, "train-1")
    for request in (denied, cancelled):
        _decide(served, request, "hold", reason=NOTE).raise_for_status()
    assert _decide(served, denied, "deny", reason="legal_obligation").json()["status"] == "denied"
    assert served.client.delete(f"{URL}/{cancelled['id']}").json()["status"] == "cancelled"
    assert _sample_state(served, f"{name}-train-0") == _sample_state(served, f"{name}-train-1") == "live"


# The forecast


def _past_job(served: Stack, name: str, *, seconds: float) -> None:
    """Have a job of the model have been published that took so long."""
    request = _ask(served, name, "train-39")
    with served.database.writing() as session:
        job = session.get_one(Job, request["jobs"][0]["id"])
        job.status, job.started_at, job.finished_at = "published", now() - timedelta(seconds=seconds), now()
    _change(served, request, status="completed")


def test_the_forecast_is_made_from_the_queue_and_past_jobs_of_the_model(served: Stack, name: str) -> None:
    request = _ask(served, name)
    with served.database.writing() as session:
        workers.seen(session, "w")
    assert request["forecast_at"] is None, "not when it is taken in"
    assert _get(served, request)["forecast_at"] is None, "nothing is known of the model yet"
    served.client.delete(f"{URL}/{request['id']}").raise_for_status()
    _past_job(served, name, seconds=600)
    request = _ask(served, name)
    document = _get(served, request)
    wait = datetime.fromisoformat(document["forecast_at"]) - now()
    assert timedelta(seconds=580) < wait < timedelta(seconds=601)
    assert document["forecast_overdue"] is False
    listed = served.client.get(URL, params={"dataset": name}).json()["items"]
    assert {each["forecast_at"] for each in listed} == {None}
    _change(served, request, due_at=now() + timedelta(seconds=60))
    assert _get(served, request)["forecast_overdue"] is True
    _decide(served, request, "hold", reason=NOTE).raise_for_status()
    assert _get(served, request)["forecast_at"] is None, "nobody knows when it will be released"
    assert _get(served, {"id": listed[-1]["id"]})["forecast_at"] is None, "it has ended"
