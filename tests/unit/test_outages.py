"""What is told of a resource that is away or full: a client sends again, a job is tried again by itself."""

import errno

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service import outages
from service.errors import WrongStore


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "full"), "The operator must free or add space."),
        (PermissionError(errno.EACCES, "no"), "The operator must look at its permissions and its connection."),
        (PoolTimeoutError(), "The database does not answer, and this attempt came to no result."),
    ],
)
def test_a_job_is_told_what_is_true_of_it_and_not_to_send_a_request_again(error: Exception, said: str) -> None:
    lack = outages.lacking(error)
    assert lack is not None
    told = outages.of_a_job(lack)
    assert told.endswith(said)
    assert "this attempt came to no result" in told
    assert "again" in lack.detail
    assert "again" not in told
    assert "nothing was stored" not in told


def test_of_another_store_a_job_is_told_all_there_is_to_know() -> None:
    lack = outages.lacking(WrongStore("It bears another name."))
    assert lack is not None
    assert outages.of_a_job(lack) == "It bears another name."
