"""The draw that says which erasures are done twice: by vectors, its share, and what it hangs on."""

import hashlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.evidence.reexecution import drawn, is_chosen, parameters_digest

NOTE = "log.example\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\u2014 log.example c2lnbmF0dXJl\n"


def test_the_draw_is_sha256_of_the_note_and_the_job() -> None:
    text = (NOTE + "job_1").encode()
    reference = subprocess.run(["sha256sum"], input=text, capture_output=True, check=True).stdout[:64].decode()
    assert drawn(NOTE, "job_1").hex() == reference


def test_the_draw_is_the_published_vector() -> None:
    # SHA-256("abc"), FIPS 180-2, appendix B.1
    assert drawn("ab", "c").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("share", "chosen"),
    [(0.0, False), (0.5, False), (0.7282, False), (0.7284, True), (1.0, True)],
)
def test_a_draw_below_the_share_is_chosen(share: float, chosen: bool) -> None:
    # 0xba7816bf… / 2^256 = 0.72839491…, by hand: 0xba7816bf / 2^32 = 3128432319 / 4294967296
    assert is_chosen("ab", "c", share=share) is chosen


def test_the_share_of_many_jobs_is_chosen() -> None:
    chosen = sum(is_chosen(NOTE, f"job_{i}", share=0.05) for i in range(20_000))
    # five standard deviations of a binomial: 5 · sqrt(20000 · 0.05 · 0.95) = 154
    assert abs(chosen - 1000) < 154


@given(st.text(), st.text(), st.floats(0, 1, allow_nan=False))
def test_a_greater_share_chooses_no_fewer(note: str, job_id: str, share: float) -> None:
    assert is_chosen(note, job_id, share=1.0)
    assert not is_chosen(note, job_id, share=0.0)
    if is_chosen(note, job_id, share=share / 2):
        assert is_chosen(note, job_id, share=share)


def test_another_note_or_job_is_another_draw() -> None:
    draws = {drawn(NOTE, "job_1"), drawn(NOTE, "job_2"), drawn(NOTE.replace("7", "8"), "job_1")}
    assert len(draws) == 3


def test_the_parameters_digest_is_that_of_their_canonical_json() -> None:
    text = b'{"config":{"epochs":3,"lr":0.05},"seed":7}'
    assert parameters_digest({"lr": 0.05, "epochs": 3}, seed=7) == hashlib.sha256(text).hexdigest()
