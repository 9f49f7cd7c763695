"""Requests above a share wait for a second person; whatever else holds them, each hold is lifted by itself."""

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from service.lifecycle import JobStatus
from service.store import attaching, holds, models, requests
from service.store.tables import DeletionRequest, Job, JobRequest, Version
from tests import factories
from tests.stack import Stack, running

_NAMES = (f"a{number}" for number in itertools.count())


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    with running(
        tmp_path_factory.mktemp("approval"), worker=False, database_url=url, approval_above_share="0.5"
    ) as found:
        yield found


def _model(stack: Stack, *, train: int = 40, **policy: Any) -> str:
    """Add a dataset of 4 equal classes and a model of the same name, trained on all of it."""
    name = next(_NAMES)
    factories.dataset(stack, name, train=train)
    factories.model(stack, name, of=name, policy=policy)
    factories.version(stack, name)
    return name


def _ask(client: httpx.Client, name: str, named: range | list[int], **changes: Any) -> Any:
    ids = [f"{name}-train-{i}" for i in named]
    body = {"dataset": name, "sample_ids": ids, "method": "finetune", **changes}
    return client.post("/v1/deletion-requests", json=body).raise_for_status().json()


def _approve(client: httpx.Client, request_id: str) -> httpx.Response:
    return client.post(f"/v1/deletion-requests/{request_id}/approve")


def test_half_of_a_training_set_needs_no_approval_and_one_sample_more_does(stack: Stack) -> None:
    name = _model(stack)
    half = _ask(stack.client, name, range(20))
    assert (half["status"], half["error"], len(half["jobs"])) == ("accepted", None, 1)
    more = _ask(stack.client, name, range(18, 39))
    assert (more["status"], more["jobs"]) == ("on_hold", [])
    assert more["error"]["code"] == "approval_needed"
    assert more["error"]["models"] == {name: ["52.5% of its training set, more than 50.0%"]}
    assert "approve" in more["error"]["detail"]
    assert more["due_at"] is not None, "its clock runs"
    listed = stack.client.get(f"/v1/deletion-requests/{more['id']}").json()
    assert (listed["status"], listed["error"]) == (more["status"], more["error"])


def test_the_bound_is_moved_only_by_a_key_that_may_approve(stack: Stack) -> None:
    name = _model(stack, approval_above_share=0.3)
    kept, moved = {"approval_above_share": 0.3}, {"approval_above_share": 1}
    model = {"name": f"{name}-2", "dataset": name, "architecture": "small_cnn"}
    with stack.client_with("models", "requests") as asking, stack.client_with("models", "approvals") as approving:
        assert asking.put(f"/v1/models/{name}/policy", json={**kept, "prepare_audit": True}).status_code == 200
        for refused in (
            asking.put(f"/v1/models/{name}/policy", json=moved),
            asking.put(f"/v1/models/{name}/policy", json={}),
            asking.post("/v1/models", json={**model, "policy": {"approval_above_class_share": 1}}),
        ):
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
            assert "approvals:write" in refused.json()["detail"]
        assert _ask(asking, name, range(13))["status"] == "on_hold"
        assert asking.post("/v1/models", json=model).status_code == 201
        assert approving.put(f"/v1/models/{name}/policy", json=moved).status_code == 200


def test_the_requester_may_not_approve_and_another_key_may_and_the_log_says_who(stack: Stack) -> None:
    name = _model(stack)
    with stack.client_with("requests", "approvals") as asking, stack.client_with("approvals:write") as approving:
        held = _ask(asking, name, range(30))
        refused = _approve(asking, held["id"])
        assert (refused.status_code, refused.json()["code"]) == (403, "requester_may_not_approve")
        assert "another person's key" in refused.json()["detail"]
        assert asking.get(f"/v1/deletion-requests/{held['id']}").json()["status"] == "on_hold"
        released = _approve(approving, held["id"]).raise_for_status().json()
    assert (released["status"], released["error"]) == ("accepted", None)
    assert [job["status"] for job in released["jobs"]] == ["queued"]
    entries = stack.client.get("/v1/audit/entries", params={"request_id": held["id"]}).json()["items"]
    actions = [entry["action"] for entry in entries]
    assert actions.index("request.on_hold") < actions.index("request.approved") < actions.index("job.queued")
    (approved,) = [entry for entry in entries if entry["action"] == "request.approved"]
    assert approved["actor"] == released["approved_by"]
    assert "train-" not in str(entries), "no sample is named in the log"


def test_what_needs_no_approval_cannot_be_given_one(stack: Stack) -> None:
    name = _model(stack)
    small, large = _ask(stack.client, name, [0]), _ask(stack.client, name, range(30))
    with stack.client_with("approvals") as approving:
        assert _approve(approving, large["id"]).status_code == 200
        for request_id in (small["id"], large["id"]):
            answer = _approve(approving, request_id)
            assert (answer.status_code, answer.json()["code"]) == (409, "approval_not_needed")
        assert _approve(approving, "req_nobody").json()["code"] == "deletion_request_not_found"
        gone = _ask(stack.client, name, range(25, 39), models=[name])
        assert gone["status"] == "accepted"


def test_a_cancelled_request_can_be_approved_no_more(stack: Stack) -> None:
    name = _model(stack)
    held = _ask(stack.client, name, range(30))
    stack.client.delete(f"/v1/deletion-requests/{held['id']}").raise_for_status()
    with stack.client_with("approvals") as approving:
        assert _approve(approving, held["id"]).status_code == 409


def test_the_policys_bounds_stand_in_for_the_services(stack: Stack) -> None:
    strict, free = _model(stack, approval_above_share=0.1), _model(stack, approval_above_share=1)
    assert _ask(stack.client, strict, range(4))["status"] == "accepted"
    assert _ask(stack.client, strict, range(10, 15))["status"] == "on_hold"
    assert _ask(stack.client, free, range(39))["status"] == "accepted"


def test_a_bound_on_classes_counts_the_largest_share_of_one(stack: Stack) -> None:
    name = _model(stack, approval_above_class_share=0.5)
    assert _ask(stack.client, name, [0, 4, 8, 12, 16])["status"] == "accepted"  # 5 of the 10 of class 0
    held = _ask(stack.client, name, [1, 5, 9, 13, 17, 21])
    assert held["error"]["models"] == {name: ["60.0% of a class, more than 50.0%"]}


def test_the_share_is_of_what_the_version_was_trained_on_not_of_the_dataset(stack: Stack) -> None:
    name = _model(stack)
    with stack.database.writing() as session:
        version = session.scalars(select(Version).where(Version.model_id == models.by_name(session, name).id)).one()
        version.training_samples = 20
    assert _ask(stack.client, name, range(11))["status"] == "on_hold"


def test_until_it_is_approved_nothing_is_withheld_and_then_it_is(stack: Stack) -> None:
    name = _model(stack, stop_serving="immediately")
    held = _ask(stack.client, name, range(30))

    def state() -> str:
        found: str = stack.client.get(f"/v1/models/{name}/versions/1").json()["state"]
        return found

    assert state() == "active"
    with stack.client_with("approvals") as approving:
        _approve(approving, held["id"]).raise_for_status()
    assert state() == "quarantined"


def test_another_hold_outlasts_an_approval_and_an_approval_another_hold(stack: Stack) -> None:
    name = _model(stack)
    with stack.client_with("approvals") as approving:
        held = _ask(stack.client, name, range(30))
        with stack.database.writing() as session:
            holds.hold(session, requests.get(session, held["id"]), "legal_hold", "A court asks.")
        both = stack.client.get(f"/v1/deletion-requests/{held['id']}").json()
        assert [cause["code"] for cause in both["error"]["causes"]] == ["approval_needed", "legal_hold"]
        approved = _approve(approving, held["id"]).raise_for_status().json()
        assert (approved["status"], approved["error"]["code"], approved["jobs"]) == ("on_hold", "legal_hold", [])
        with stack.database.writing() as session:
            request = requests.get(session, held["id"])
            holds.lift(session, request, "legal_hold")
            assert len(attaching.take_up(session, request, suppression_key=b"s" * 32)) == 1
        other = _ask(stack.client, name, range(9, 39))
        with stack.database.writing() as session:
            request = requests.get(session, other["id"])
            holds.hold(session, request, "legal_hold", "A court asks.")
            assert not holds.lift(session, request, "legal_hold")
        assert stack.client.get(f"/v1/deletion-requests/{other['id']}").json()["status"] == "on_hold"


def test_a_version_that_appears_later_is_judged_too_unless_the_request_was_approved(stack: Stack) -> None:
    for approved in (False, True):
        name = _model(stack)
        factories.model(stack, name + "late", of=name, policy={"approval_above_share": 0.1})
        request = _ask(stack.client, name, range(30 if approved else 10))
        if approved:
            with stack.client_with("approvals") as approving:
                _approve(approving, request["id"]).raise_for_status()
        factories.version(stack, name + "late")
        with stack.database.writing() as session:
            attaching.attach_open_requests(session, models.by_name(session, name + "late"))
        found = stack.client.get(f"/v1/deletion-requests/{request['id']}").json()
        assert (found["status"], len(found["jobs"])) == (("accepted", 2) if approved else ("on_hold", 1))


def _held_job(stack: Stack, request_id: str) -> str:
    """Make the request's job one that came to a model which its gate did not pass."""
    with stack.database.writing() as session:
        job = session.scalars(select(Job).join(JobRequest).where(JobRequest.request_id == request_id)).one()
        job.status, job.candidate_sha256, job.candidate_size = JobStatus.HELD, "0" * 64, 1
        session.get_one(DeletionRequest, request_id).status = "on_hold"
        return job.id


@pytest.mark.parametrize(("setting", "request_status", "job_status"), [("off", 200, 202), ("true", 403, 403)])
def test_who_may_approve_is_the_operators_to_say(
    stack: Stack, setting: str, request_status: int, job_status: int
) -> None:
    name = _model(stack)
    given = {"database_url": stack.settings.database_url, "four_eyes": setting, "approval_above_share": "0.5"}
    with running(stack.settings.data_dir, worker=False, **given) as other:
        assert _approve(other.client, _ask(other.client, name, range(30))["id"]).status_code == request_status
        job_id = _held_job(stack, _ask(other.client, name, [35], purpose="bias")["id"])
        answer = other.client.post(f"/v1/jobs/{job_id}/approve")
        assert answer.status_code == job_status
        if job_status == 403:
            assert answer.json()["code"] == "requester_may_not_approve"
            with other.client_with("admin") as another:
                assert another.post(f"/v1/jobs/{job_id}/approve").status_code == 202


def test_by_default_a_held_job_may_be_approved_by_who_asked(stack: Stack) -> None:
    name = _model(stack)
    job_id = _held_job(stack, _ask(stack.client, name, [0])["id"])
    assert stack.client.post(f"/v1/jobs/{job_id}/approve").status_code == 202


@pytest.mark.parametrize("policy", [{"approval_above_share": 0}, {"approval_above_class_share": 1.5}])
def test_a_bound_that_is_no_share_is_refused(stack: Stack, policy: dict[str, float]) -> None:
    name = _model(stack)
    assert stack.client.put(f"/v1/models/{name}/policy", json=policy).status_code == 422


def test_jobs_that_a_legal_hold_stopped_go_on_when_the_approval_is_the_last_to_come(stack: Stack) -> None:
    name = _model(stack)
    factories.model(stack, name + "late", of=name, policy={"approval_above_share": 0.1})
    request_id = _ask(stack.client, name, range(10))["id"]
    stack.client.post(f"/v1/deletion-requests/{request_id}/hold", json={"reason": "A court asks."}).raise_for_status()
    factories.version(stack, name + "late")
    with stack.database.writing() as session:
        attaching.attach_open_requests(session, models.by_name(session, name + "late"))
    released = stack.client.post(f"/v1/deletion-requests/{request_id}/release").raise_for_status().json()
    assert (released["status"], released["error"]["code"]) == ("on_hold", "approval_needed")
    assert _is_waiting(stack, request_id)
    with stack.client_with("approvals") as approving:
        approved = _approve(approving, request_id).raise_for_status().json()
    assert (approved["status"], len(approved["jobs"])) == ("accepted", 2)
    assert not _is_waiting(stack, request_id)


def _is_waiting(stack: Stack, request_id: str) -> bool:
    with stack.database.reading() as session:
        return all(job.on_hold for job, _ in requests.jobs(session, [request_id])[request_id])
