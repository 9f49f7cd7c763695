"""The forecast plays the queue: a model has one job at a time, workers take the most urgent job that may begin."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from service.forecast import Work, finish_times

AT = datetime(2024, 5, 1, tzinfo=UTC)


def _seconds(works: list[Work], workers: int = 1) -> dict[str, float]:
    found = finish_times(works, workers=workers, at=AT)
    return {job: (moment - AT).total_seconds() for job, moment in found.items()}


def _work(job: str, model: str = "m", *seconds: float, **more: float | datetime) -> Work:
    return Work(job_id=job, model=model, seconds=seconds, **more)  # type: ignore[arg-type]


def test_jobs_of_one_model_follow_one_another_however_many_workers_there_are() -> None:
    works = [_work("a", "m", 10.0), _work("b", "m", 10.0), _work("c", "n", 5.0)]
    assert _seconds(works, workers=1) == {"a": 10, "b": 20, "c": 25}
    assert _seconds(works, workers=2) == {"a": 10, "b": 20, "c": 5}


def test_the_typical_past_job_is_the_median() -> None:
    assert _seconds([_work("a", "m", 1.0, 2.0, 900.0)]) == {"a": 2}


def test_a_job_under_way_takes_as_much_longer_as_past_ones_did_that_took_longer() -> None:
    assert _seconds([_work("a", "m", 10.0, 20.0, 40.0, running_for=15.0)]) == {"a": 15}
    assert _seconds([_work("a", "m", 10.0, running_for=60.0)]) == {"a": 60}


def test_a_job_waits_for_its_worker_and_for_more_requests() -> None:
    later = AT + timedelta(seconds=100)
    works = [_work("busy", "n", 30.0, running_for=10.0), _work("a", "m", 5.0), _work("b", "k", 5.0, not_before=later)]
    assert _seconds(works) == {"busy": 20, "a": 25, "b": 105}


def test_what_nobody_knows_is_left_out_and_counts_as_typical_to_those_behind() -> None:
    works = [_work("new", "n"), _work("a", "m", 10.0)]
    assert _seconds(works) == {"a": 20}
    assert _seconds([_work("new", "n")]) == {}


def test_without_a_worker_there_is_no_forecast() -> None:
    assert _seconds([_work("a", "m", 1.0)], workers=0) == {}


def _second_by_second(jobs: list[tuple[str, int]], workers: int) -> dict[str, int]:
    """Play the queue one second at a time: every idle worker takes the first job whose model is idle."""
    waiting = list(range(len(jobs)))
    busy: dict[int, int] = {}
    ended: dict[str, int] = {}
    clock = 0
    while waiting or busy:
        for job in [job for job, end in busy.items() if end == clock]:
            ended[str(job)] = busy.pop(job)
        for job in list(waiting):
            models = {jobs[other][0] for other in busy}
            if len(busy) < workers and jobs[job][0] not in models:
                waiting.remove(job)
                busy[job] = clock + jobs[job][1]
        clock += 1
    return ended


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=9), st.integers(1, 4))
def test_the_forecast_is_what_playing_the_queue_second_by_second_gives(
    jobs: list[tuple[str, int]], workers: int
) -> None:
    works = [_work(str(place), model, float(seconds)) for place, (model, seconds) in enumerate(jobs)]
    assert _seconds(works, workers) == _second_by_second(jobs, workers)
