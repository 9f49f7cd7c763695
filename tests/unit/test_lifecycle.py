"""The tables of moves: every state has a row, what is over stays over, and nothing else moves."""

from enum import StrEnum

import pytest

from service.errors import Conflict
from service.lifecycle import (
    JOB_BUSY,
    JOB_MOVES,
    JOB_OVER,
    JOB_STUCK,
    REQUEST_MOVES,
    VERSION_MOVES,
    JobStatus,
    RequestStatus,
    VersionState,
    check_job_move,
    check_request_move,
    check_version_move,
)


@pytest.mark.parametrize(
    ("states", "moves"),
    [(RequestStatus, REQUEST_MOVES), (JobStatus, JOB_MOVES), (VersionState, VERSION_MOVES)],
)
def test_every_state_has_a_row_of_moves_to_known_states(
    states: type[StrEnum], moves: dict[StrEnum, set[StrEnum]]
) -> None:
    assert set(moves) == set(states)
    assert {goal for goals in moves.values() for goal in goals} <= set(states)
    assert not any(state in goals for state, goals in moves.items())


def test_what_is_over_stays_over() -> None:
    assert not any(JOB_MOVES[status] for status in JOB_OVER)
    ends = (RequestStatus.COMPLETED, RequestStatus.DENIED, RequestStatus.CANCELLED)
    assert not any(REQUEST_MOVES[status] for status in ends)
    assert not VERSION_MOVES[VersionState.PURGED]


def test_a_stuck_job_can_be_queued_again_and_a_busy_one_can_get_stuck() -> None:
    assert all(JobStatus.QUEUED in JOB_MOVES[status] for status in JOB_STUCK)
    assert all(JOB_MOVES[status] >= JOB_STUCK for status in JOB_BUSY)


def test_retired_weights_never_serve_again() -> None:
    reachable, found = {VersionState.RETIRED}, {VersionState.RETIRED}
    while found:
        found = {goal for state in found for goal in VERSION_MOVES[state]} - reachable
        reachable |= found
    assert reachable == {VersionState.RETIRED, VersionState.PURGED}


def test_a_request_is_cancelled_only_before_work_starts() -> None:
    may = {status for status, goals in REQUEST_MOVES.items() if RequestStatus.CANCELLED in goals}
    # One on hold may not have been started either; cancelling looks at the moment it was.
    assert may == {RequestStatus.ACCEPTED, RequestStatus.ON_HOLD}


def test_a_forbidden_move_names_the_state_it_found() -> None:
    check_request_move("accepted", RequestStatus.IN_PROGRESS)
    check_job_move("queued", JobStatus.RUNNING)
    check_version_move("active", VersionState.RETIRED)
    with pytest.raises(Conflict) as request:
        check_request_move("completed", RequestStatus.ACCEPTED)
    assert request.value.code == "deletion_request_is_completed"
    with pytest.raises(Conflict) as job:
        check_job_move("published", JobStatus.QUEUED)
    assert job.value.code == "job_is_published"
    with pytest.raises(Conflict) as version:
        check_version_move("purged", VersionState.ACTIVE)
    assert version.value.code == "version_is_purged"
