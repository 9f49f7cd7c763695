"""A request that a person has put on hold, and its release."""

import pytest

from service.lifecycle import JobStatus
from service.store import (
    attaching,
    holds,
    jobs,
    requests,
)
from service.store.jobs import LeaseLost
from service.store.tables import Job
from tests import factories
from tests.integration.decisions.deciding import (
    NOTE,
    URL,
    ask,
    change,
    claim_next,
    decide,
    log_of,
    read,
    read_job,
    refused,
    sample_state,
)
from tests.stack import Stack


def test_a_held_requests_queued_job_does_not_start_until_it_is_released(served: Stack, name: str) -> None:
    request = ask(served, name)
    document = decide(served, request, "hold", reason=NOTE).raise_for_status().json()
    assert (document["status"], document["error"]["code"]) == ("on_hold", "legal_hold")
    assert document["due_at"] == request["due_at"], "the clock goes on"
    assert claim_next(served) is None
    assert decide(served, request, "release").raise_for_status().json()["status"] == "accepted"
    claim = claim_next(served)
    assert claim is not None
    assert claim.job_id == request["jobs"][0]["id"]


def test_what_runs_when_a_request_is_held_is_not_published_and_begins_anew(served: Stack, name: str) -> None:
    request = ask(served, name)
    claim = claim_next(served)
    assert claim is not None
    decide(served, request, "hold", reason=NOTE).raise_for_status()
    with pytest.raises(LeaseLost), served.database.writing() as session:
        jobs.hold_lease(session, claim)
    assert claim_next(served) is None
    assert decide(served, request, "release").json()["status"] == "in_progress"
    again = claim_next(served)
    assert again is not None
    assert again.fence == claim.fence + 1


def test_a_hold_stops_one_request_and_not_those_it_shares_a_job_with(served: Stack, name: str) -> None:
    one, other = ask(served, name, "train-0"), ask(served, name, "train-1")
    held = decide(served, one, "hold", reason=NOTE).json()
    assert held["jobs"][0]["id"] != other["jobs"][0]["id"]
    own = read_job(served, held["jobs"][0]["id"])
    assert own.policy_digest == read_job(served, other["jobs"][0]["id"]).policy_digest, "the bar does not move"
    third = ask(served, name, "train-2")
    assert third["jobs"][0]["id"] == other["jobs"][0]["id"], "nobody joins what is held"
    claim = claim_next(served)
    assert claim is not None
    assert claim.job_id == other["jobs"][0]["id"]


def test_a_version_that_appears_meanwhile_is_worked_on_after_the_release(served: Stack, name: str) -> None:
    request = ask(served, name)
    decide(served, request, "hold", reason=NOTE).raise_for_status()
    factories.model(served, name + "late", of=name)
    content = factories.safetensors(w=[3.0, float(len(name))])
    headers = {"Content-Type": "application/vnd.safetensors"}
    served.client.post(f"/v1/models/{name}late/versions", content=content, headers=headers).raise_for_status()
    assert {job["model"] for job in read(served, request)["jobs"]} == {name}
    released = decide(served, request, "release").raise_for_status().json()
    assert {job["model"] for job in released["jobs"]} == {name, name + "late"}


def test_a_stuck_job_of_a_held_request_waits_even_if_it_is_tried_again(served: Stack, name: str) -> None:
    request = ask(served, name)
    job_id = request["jobs"][0]["id"]
    with served.database.writing() as session:
        session.get_one(Job, job_id).status = JobStatus.FAILED
    change(served, request, status="failed")
    assert decide(served, request, "hold", reason=NOTE).json()["status"] == "on_hold"
    assert decide(served, request, "release").json()["status"] == "failed", "its job waits for a person still"
    decide(served, request, "hold", reason=NOTE).raise_for_status()
    served.client.post(f"/v1/jobs/{job_id}/retry").raise_for_status()
    assert read(served, request)["status"] == "on_hold"
    assert claim_next(served) is None
    assert decide(served, request, "release").json()["status"] == "accepted"
    assert claim_next(served) is not None


def test_a_hold_by_a_person_and_one_by_a_model_are_lifted_apart(served: Stack, name: str) -> None:
    request = ask(served, name, method="retrain")
    decide(served, request, "hold", reason=NOTE).raise_for_status()
    factories.model(served, name + "bare", of=name, recipe=None)
    content = factories.safetensors(w=[4.0, float(len(name))])
    headers = {"Content-Type": "application/vnd.safetensors"}
    served.client.post(f"/v1/models/{name}bare/versions", content=content, headers=headers).raise_for_status()
    released = decide(served, request, "release").raise_for_status().json()
    assert (released["status"], released["error"]["code"]) == ("on_hold", "cannot_be_worked_on")
    refused(decide(served, request, "release"), 409, "not_on_hold_by_a_person")
    claim = claim_next(served)
    assert claim is not None, "the other model's job goes on"


def test_a_request_that_also_needs_approval_starts_when_both_holds_are_lifted(served: Stack, name: str) -> None:
    request = ask(served, name)
    decide(served, request, "hold", reason=NOTE).raise_for_status()
    with served.database.writing() as session:
        found = requests.get(session, request["id"])
        holds.hold(session, found, requests.APPROVAL_NEEDED, "Somebody must look at it.")
    released = decide(served, request, "release").raise_for_status().json()
    assert (released["status"], released["error"]["code"]) == ("on_hold", "approval_needed")
    assert claim_next(served) is None
    with served.database.writing() as session:
        found = requests.get(session, request["id"])
        holds.lift(session, found, requests.APPROVAL_NEEDED)
        queued = attaching.take_up(session, found, suppression_key=b"s" * 32)
    assert [each.job.id for each in queued] == [request["jobs"][0]["id"]]
    assert claim_next(served) is not None


def test_a_request_is_held_once_and_released_once(served: Stack, name: str) -> None:
    request = ask(served, name)
    refused(decide(served, request, "release"), 409, "not_on_hold_by_a_person")
    decide(served, request, "hold", reason=NOTE).raise_for_status()
    refused(decide(served, request, "hold", reason=NOTE), 409, "already_on_hold")
    decide(served, request, "release").raise_for_status()
    refused(decide(served, request, "release"), 409, "not_on_hold_by_a_person")
    assert len(log_of(served, request, "request.held")) == len(log_of(served, request, "request.released")) == 1


def test_a_held_request_can_be_denied_and_if_nothing_was_started_cancelled(served: Stack, name: str) -> None:
    denied, cancelled = ask(served, name, "train-0"), ask(served, name, "train-1")
    for request in (denied, cancelled):
        decide(served, request, "hold", reason=NOTE).raise_for_status()
    assert decide(served, denied, "deny", reason="legal_obligation").json()["status"] == "denied"
    assert served.client.delete(f"{URL}/{cancelled['id']}").json()["status"] == "cancelled"
    assert sample_state(served, f"{name}-train-0") == sample_state(served, f"{name}-train-1") == "live"
