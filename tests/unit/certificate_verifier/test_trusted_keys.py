"""Which keys the verifier takes, and from when to when."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service.evidence import verify
from service.evidence.verify import TrustedKey
from tests import certificate_cases as cases
from tests.unit.certificate_verifier.bundles import KEY, PIN, edited, refusal, verifier_key


def test_another_key_in_the_keys_place_is_refused() -> None:
    theirs = cases.record(cases.key(2)).document()
    assert refusal(edited(cases.made(), lambda b: b.update(keys=[theirs]))).code == "unknown_key"
    under_our_name = {**theirs, "key_id": cases.record(KEY).document()["key_id"]}
    assert refusal(edited(cases.made(), lambda b: b.update(keys=[under_our_name]))).code == "unknown_key"
    whole = cases.made(signer=cases.key(2))
    assert refusal(whole).code == "untrusted_key"


@pytest.mark.parametrize(
    ("dates", "code"),
    [
        ({"not_before": cases.START + timedelta(hours=2)}, "key_not_yet_valid"),
        ({"not_after": cases.START}, "key_expired"),
        ({"revoked_at": cases.START}, "key_revoked"),
    ],
)
def test_a_key_that_was_not_valid_when_it_signed_is_refused(dates: Any, code: str) -> None:
    found = refusal(cases.made(records=[cases.record(KEY, **dates)]))
    assert (found.code, cases.sha(KEY.public_key) in str(found)) == (code, True)


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({"not_before": "2026-03-03T00:00:00Z"}, "key_not_yet_valid"),
        ({"not_after": "2026-03-02T09:30:00Z"}, "key_expired"),
        ({"revoked_at": "2026-03-02T09:30:00Z"}, "key_revoked"),
    ],
)
def test_what_the_auditor_knows_of_the_key_counts_over_what_the_bundle_says(known: Any, code: str) -> None:
    assert refusal(cases.made(), trusted=[TrustedKey(pin=KEY.public_key, **known)]).code == code


def test_a_certificate_of_the_old_key_is_good_after_the_rotation() -> None:
    rotated = cases.record(KEY, not_after=cases.START + timedelta(days=1))
    new = cases.record(cases.key(2), not_before=cases.START + timedelta(days=1))
    raw = cases.made(records=[rotated, new])
    known = TrustedKey(pin=KEY.public_key, not_after="2026-03-03T09:00:00Z")
    assert verify.verify(raw, trusted=[known]).trusted


def test_a_certificate_that_says_it_is_older_than_its_keys_revocation_is_for_who_knows_that_it_is() -> None:
    known = TrustedKey(pin=KEY.public_key, revoked_at="2026-04-01T00:00:00Z")
    refused = refusal(cases.made(), trusted=[known])
    assert refused.code == "key_revoked"
    assert "whoever stole the key can write" in str(refused)
    verdict = verify.verify(cases.made(), trusted=[known], believe_date=True)
    assert (verdict.trusted, len(verdict.notes)) == (True, 1)
    assert "revoked later, at 2026-04-01T00:00:00Z" in verdict.notes[0]


def test_every_record_that_the_auditor_has_of_a_key_counts() -> None:
    revoked = TrustedKey(pin=KEY.public_key, revoked_at="2026-03-02T09:00:00Z")
    assert refusal(cases.made(), trusted=[*PIN, revoked]).code == "key_revoked"
    assert refusal(cases.made(), trusted=[*PIN, revoked], believe_date=True).code == "key_revoked"


def test_a_key_trusted_for_one_log_is_not_trusted_for_another() -> None:
    other = replace(KEY, name="other.example/log")
    pinned = verify.read_trusted(verifier_key(other))
    assert "not trusted for the log 'log.example/unlearning'" in str(refusal(cases.made(), trusted=pinned))
    assert verify.verify(cases.made(), trusted=[*pinned, *PIN]).trusted


@pytest.mark.parametrize("date", ["2026-03-02T09:00:00", "2026-03-02", 5, "soon"])
def test_a_date_of_a_trusted_key_names_its_offset_from_utc(date: Any) -> None:
    row = {**cases.record(KEY).document(), "revoked_at": date}
    with pytest.raises(ValueError, match=r"."):
        verify.read_trusted(json.dumps([row]))
