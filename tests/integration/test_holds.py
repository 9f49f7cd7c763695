"""A request may be on hold for several causes; each is lifted by itself, and the last one lets the request go on."""

from sqlalchemy import select

from service.lifecycle import JobStatus, RequestStatus
from service.store import attaching, holds, intake, models, requests, settling
from service.store.intake import Secrets
from service.store.tables import DeletionRequest, Job, JobRequest
from tests import factories
from workers.bench import Bench

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")


def _idle(bench: Bench, name: str) -> str:
    """Take a request in whose job nobody claims."""
    factories.dataset(bench, name)
    factories.model(bench, name, of=name)
    factories.version(bench, name)
    order = factories.order(name, "train-0")
    with bench.database.writing() as session:
        return intake.accept(session, order, SECRETS).request.id


def _get(bench: Bench, request_id: str) -> DeletionRequest:
    with bench.database.reading() as session:
        return requests.get(session, request_id)


def test_a_request_with_two_causes_goes_on_when_both_are_lifted_in_either_order(bench: Bench) -> None:
    for name, order in (("forth", ("one", "two")), ("back", ("two", "one"))):
        request_id = _idle(bench, name)
        with bench.database.writing() as session:
            request = requests.get(session, request_id)
            holds.hold(session, request, "one", "The first.")
            holds.hold(session, request, "two", "The second.", until="then")
        held = _get(bench, request_id)
        assert held.status == RequestStatus.ON_HOLD
        assert [each["code"] for each in requests.causes(held)] == ["one", "two"]
        assert held.error is not None
        assert (held.error["code"], held.error["detail"]) == ("one", "The first.")
        with bench.database.writing() as session:
            assert not holds.lift(session, requests.get(session, request_id), order[0])
        assert _get(bench, request_id).status == RequestStatus.ON_HOLD
        with bench.database.writing() as session:
            assert holds.lift(session, requests.get(session, request_id), order[1])
        done = _get(bench, request_id)
        assert (done.status, done.error) == (RequestStatus.ACCEPTED, None)


def test_a_cause_that_was_written_before_there_could_be_several_is_read_as_one(bench: Bench) -> None:
    request_id = _idle(bench, "old")
    with bench.database.writing() as session:
        request = requests.get(session, request_id)
        request.error = {"code": "cannot_be_worked_on", "detail": "…", "models": {"old": ["no recipe"]}}
        requests.move(session, request, RequestStatus.ON_HOLD)
    with bench.database.writing() as session:
        request = requests.get(session, request_id)
        assert not requests.stops_work(request)
        assert holds.can_be_worked_on(session, request, "old")
    assert _get(bench, request_id).error is None


def test_no_new_version_gets_a_job_while_work_is_stopped_and_all_get_theirs_after(bench: Bench) -> None:
    request_id = _idle(bench, "later")
    factories.model(bench, "later2", of="later")
    with bench.database.writing() as session:
        holds.hold(session, requests.get(session, request_id), "legal", "Wait.")
    factories.version(bench, "later2")
    with bench.database.writing() as session:
        attaching.attach_open_requests(session, models.by_name(session, "later2"))
    assert _models_of_jobs(bench, request_id) == ["later"]
    with bench.database.writing() as session:
        request = requests.get(session, request_id)
        holds.lift(session, request, "legal")
        queued = attaching.take_up(session, request, suppression_key=SECRETS.suppression)
    assert [each.model for each in queued] == ["later2"]
    assert _models_of_jobs(bench, request_id) == ["later", "later2"]


def _models_of_jobs(bench: Bench, request_id: str) -> list[str]:
    with bench.database.reading() as session:
        return [model for _, model in requests.jobs(session, [request_id])[request_id]]


def test_a_stuck_job_that_is_tried_again_does_not_end_a_hold(bench: Bench) -> None:
    request_id = _idle(bench, "stuck")
    with bench.database.writing() as session:
        holds.hold(session, requests.get(session, request_id), "legal", "Wait.")
        job = session.scalars(select(Job).join(JobRequest).where(JobRequest.request_id == request_id)).one()
        job.status = JobStatus.HELD
        settling.resume(session, job.id)
    assert _get(bench, request_id).status == RequestStatus.ON_HOLD
