"""A denied request: what becomes of its jobs, its samples, the versions and the ledger."""

from typing import Any

import pytest

from service.lifecycle import JobStatus
from service.store import (
    candidates,
    job_phase,
    jobs,
    residuals,
)
from service.store.jobs import LeaseLost
from service.store.tables import Attempt, Job
from service.store.types import now
from tests import factories
from tests.integration.decisions.deciding import (
    NOTE,
    URL,
    ask,
    change,
    claim_next,
    decide,
    faults_of,
    log_of,
    read,
    read_job,
    refused,
    sample_state,
)
from tests.stack import Stack


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
    request = ask(served, name)
    assert served.client.get(f"/v1/models/{strict}/versions/1").json()["state"] == "quarantined"
    answer = decide(served, request, "deny", reason=reason, note=NOTE).raise_for_status()
    document = answer.json()
    assert (document["status"], document["ended_at"] is not None) == ("denied", True)
    assert {job["status"] for job in document["jobs"]} == {"cancelled"}
    assert [(each["kind"], each["reason"]) for each in document["decisions"]] == [("denial", reason)]
    assert served.client.get(f"/v1/models/{strict}/versions/1").json()["state"] == "active"
    assert sample_state(served, f"{name}-train-0") == "live"
    (payload,) = log_of(served, request, "request.denied")
    assert payload["reason"] == reason


def test_a_denial_of_work_under_way_discards_it(served: Stack, name: str) -> None:
    request = ask(served, name)
    claim = claim_next(served)
    assert claim is not None
    assert read(served, request)["status"] == "in_progress"
    decide(served, request, "deny", reason="suspected_fraud").raise_for_status()
    with pytest.raises(LeaseLost), served.database.writing() as session:
        job_phase.begin_evaluation(session, claim)
    assert read_job(served, claim.job_id).status == JobStatus.CANCELLED
    with served.database.reading() as session:
        assert session.get_one(Attempt, (claim.job_id, claim.fence)).outcome == "discarded"
    assert claim_next(served) is None


def test_a_shared_job_begins_anew_for_the_others(served: Stack, name: str) -> None:
    one, other = ask(served, name, "train-0"), ask(served, name, "train-1")
    claim = claim_next(served)
    assert claim is not None
    assert decide(served, one, "deny", reason="no_match").json()["jobs"] == []
    with pytest.raises(LeaseLost), served.database.writing() as session:
        jobs.hold_lease(session, claim)
    assert read_job(served, claim.job_id).attempts == 0, "the attempt does not count"
    again = claim_next(served)
    assert again is not None
    assert (again.job_id, again.fence) == (claim.job_id, claim.fence + 1)
    assert read(served, other)["status"] == "in_progress"


@pytest.mark.parametrize("approved", [False, True])
@pytest.mark.parametrize("decision", [("deny", {"reason": "no_match"}), ("hold", {"reason": NOTE})])
def test_no_model_that_forgot_a_request_which_left_is_published_for_the_others(
    served: Stack, name: str, decision: tuple[str, dict[str, str]], approved: bool
) -> None:
    one, other = ask(served, name, "train-0"), ask(served, name, "train-1")
    job_id = one["jobs"][0]["id"]
    with served.database.writing() as session:
        job = session.get_one(Job, job_id)
        job.status, job.rung, job.attempts = JobStatus.HELD, "finetune", 1
        job.rungs = [{"method": "finetune", "verdict": "fail"}]
        candidates.keep(session, job, sha256=f"{abs(hash(name)):064x}", size=7)
    for request in (one, other):
        change(served, request, status="on_hold", started_at=now())
    if approved:
        served.client.post(f"/v1/jobs/{job_id}/approve").raise_for_status()
    decide(served, one, decision[0], **decision[1]).raise_for_status()
    job = read_job(served, job_id)
    assert (job.status, job.candidate_sha256, job.approved_by, job.rung) == (JobStatus.QUEUED, None, None, None)
    assert [rung.get("before_retry") for rung in job.rungs] == [True], "the ladder begins anew"
    assert read(served, other)["status"] == "in_progress"
    claim = claim_next(served)
    assert claim is not None
    assert claim.job_id == job_id


def test_the_ledger_says_what_became_of_a_denied_requests_candidate(served: Stack, name: str) -> None:
    request = ask(served, name)
    sha256 = f"{abs(hash(name)):064x}"
    with served.database.writing() as session:
        job = session.get_one(Job, request["jobs"][0]["id"])
        job.status = JobStatus.HELD
        candidates.keep(session, job, sha256=sha256, size=7)
    change(served, request, status="on_hold")
    decide(served, request, "deny", reason="no_match").raise_for_status()
    [line] = served.client.get(f"{URL}/{request['id']}/residuals").json()["items"]
    assert (line["kind"], line["sha256"], line["state"]) == ("candidate", sha256, "dropped")
    with served.database.reading() as session:
        assert sha256 in residuals.detached(session), "a sweep deletes the bytes and proves them gone"


def test_work_that_is_published_cannot_be_denied(served: Stack, name: str) -> None:
    factories.model(served, name + "b", of=name)
    factories.version(served, name + "b")
    request = ask(served, name)
    with served.database.writing() as session:
        job = session.get_one(Job, request["jobs"][0]["id"])
        job.status, job.finished_at = JobStatus.PUBLISHED, now()
    problem = refused(decide(served, request, "deny", reason="no_match"), 409, "work_cannot_be_undone")
    assert name in problem["detail"]
    assert read(served, request)["status"] == "accepted"


def test_a_request_whose_job_failed_can_be_denied(served: Stack, name: str) -> None:
    request = ask(served, name)
    with served.database.writing() as session:
        session.get_one(Job, request["jobs"][0]["id"]).status = JobStatus.FAILED
    change(served, request, status="failed")
    assert decide(served, request, "deny", reason="claim_not_covered").json()["status"] == "denied"


def test_what_has_ended_cannot_be_denied_or_held(served: Stack, name: str) -> None:
    completed, cancelled, denied = ask(served, name, "audit-0"), ask(served, name), ask(served, name)
    served.client.delete(f"{URL}/{cancelled['id']}").raise_for_status()
    decide(served, denied, "deny", reason="no_match").raise_for_status()
    for request, status in ((completed, "completed"), (cancelled, "cancelled"), (denied, "denied")):
        code = f"deletion_request_is_{status}"
        refused(decide(served, request, "deny", reason="no_match"), 409, code)
        refused(decide(served, request, "hold", reason="x"), 409, code)


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
    request = ask(served, name)
    assert faults_of(decide(served, request, "deny", **body)) == faults
    assert read(served, request)["status"] == "accepted"
