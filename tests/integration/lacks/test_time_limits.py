"""Work past its time limit is ended, and the next method's turn comes."""

import os
import signal
from typing import Any

import pytest

from service.lifecycle import JobStatus, RequestStatus
from service.store.tables import DeletionRequest
from tests.integration.lacks.stand_ins import actions_of, answering, queue_erasure, queue_training, read_job
from workers import tasks
from workers.bench import Bench
from workers.runner import Runner, TimeLimitExceeded


def _timed_out(_: dict[str, Any]) -> dict[str, Any]:
    raise TimeLimitExceeded(5)


@pytest.mark.parametrize("method", ["finetune", "auto"])
def test_methods_past_the_time_limit_are_each_tried_once_and_the_last_says_what_to_do(
    bench: Bench, name: str, method: str
) -> None:
    request_id, job_id = queue_erasure(bench, name, method)
    asked: list[str] = []

    def answer(order: dict[str, Any]) -> dict[str, Any]:
        asked.append(order["method"])
        return _timed_out(order)

    assert tasks.run_all(answering(bench, answer)) == len(asked) == len(set(asked)) > 1
    assert actions_of(bench, job_id).count("job.escalated") == len(asked) - 1
    job = read_job(bench, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == (JobStatus.FAILED, "time_limit_exceeded")
    assert "UNLEARN_JOB_TIME_LIMIT_SECONDS" in job.error["detail"]
    with bench.database.reading() as session:
        assert session.get_one(DeletionRequest, request_id).status == RequestStatus.FAILED


def test_training_past_the_time_limit_fails_at_once(bench: Bench, name: str) -> None:
    job_id = queue_training(bench, name)
    assert tasks.run_all(answering(bench, _timed_out)) == 1
    assert read_job(bench, job_id).status == JobStatus.FAILED


@pytest.mark.parametrize("long", [False, True])
def test_a_stopped_child_is_ended_at_the_time_limit_however_long_its_order(long: bool) -> None:
    """An order longer than the pipe would else be written for ever."""
    runner = Runner(time_limit_seconds=0.5, idle_seconds=60)
    runner._start()
    child = runner._child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    order = {"kind": "index", "filling": "x" * (1 << 22 if long else 1)}
    with pytest.raises(TimeLimitExceeded, match="within 0 seconds"):
        runner.run(order, progress=lambda *_: None, stop=lambda: False)
    assert child.poll() == -signal.SIGKILL
    assert runner._child is None
