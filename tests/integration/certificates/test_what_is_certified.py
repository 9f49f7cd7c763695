"""What a certificate says of its request, and which requests have one."""

import base64
import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest

from service.evidence import verify
from service.evidence.verify import Refused
from service.store import (
    approval,
    audit,
    certificates,
    dataset_roots,
    decisions,
    jobs,
    models,
    requests,
    signing_keys,
    versions,
)
from tests import factories
from tests.integration.certificates.place import Place, ask, issue, model, work
from workers import sweeper


def purge(place: Place) -> None:
    sweeper.sweep(place.bench, lambda _: None)


def predicate(raw: bytes) -> Any:
    return json.loads(base64.b64decode(json.loads(raw)["envelopes"]["certificate"]["payload"]))["predicate"]


def test_the_certificate_comes_once_the_old_weights_are_gone_and_verifies(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0", "train-1")
    new = work(place)
    issue(place)
    assert place.certificate(request_id) is None
    early = place.get(f"/v1/deletion-requests/{request_id}/certificate")
    assert (early.status_code, early.json()["code"]) == (409, "certificate_not_ready")
    assert early.json()["request_status"] == "completed"
    assert f"model/{name}/version/1" in early.json()["waits_for"]
    purge(place)
    issue(place)
    answer = place.get(f"/v1/deletion-requests/{request_id}/certificate")
    assert answer.status_code == 200
    verdict = verify.verify(answer.content, trusted=place.trusted(), weights={"new": hashlib.sha256(new).hexdigest()})
    assert verdict.weights == [f"{name}/2"]
    found = verdict.certificate
    assert found["request"]["article"] == "17"
    assert found["forget_set"]["outcomes"]["erased"] == 2
    assert (found["dataset"]["samples_before"] - found["dataset"]["samples_after"]) == 2
    assert found["models"][0]["method"]["guarantee"] == "none"
    old = next(r for r in found["residuals"] if r["name"] == f"model/{name}/version/1")
    assert old["state"] == "purged"
    assert any(r["state"] == "not_ours_to_delete" for r in found["residuals"])
    changed = bytes([new[-1] ^ 1])
    with pytest.raises(Refused, match="none of the certificate's files"):
        verify.verify(answer.content, weights={"new": hashlib.sha256(new[:-1] + changed).hexdigest()})


@pytest.mark.parametrize("lifted", ["release", "approve"])
def test_a_request_that_was_on_hold_has_one_too(place: Place, name: str, lifted: str) -> None:
    model(place, name)
    named = [f"train-{i}" for i in range(21 if lifted == "approve" else 1)]
    with place.database.writing() as session:
        models.by_name(session, name).policy = {"approval_above_share": 0.5}
    request_id = ask(place, name, *named)
    secret = place.parts.secrets.suppression
    for _ in range(2):
        with place.database.writing() as session:
            if lifted == "release":
                decisions.hold(session, request_id, note="counsel asked", by="key_b")
                decisions.release(session, request_id, by="key_b", suppression_key=secret)
            elif requests.get(session, request_id).approved_by is None:
                approval.approve(session, request_id, by="key_b", suppression_key=secret, four_eyes=True)
    work(place)
    purge(place)
    issue(place)
    assert verify.verify(place.certificate(request_id).bundle, trusted=place.trusted()).trusted
    with place.database.reading() as session:
        about: dict[str, Any] = {"links": {"request": request_id}, "limit": 9}
        assert len(audit.find(session, actions=["request.accepted"], **about)) == 1
        assert audit.find(session, actions=["request.resumed"], **about)


@pytest.mark.parametrize("changes", [{"purpose": "bias"}, {"models": True}])
def test_bytes_that_the_request_leaves_with_another_version_are_stated_and_not_waited_for(
    place: Place, name: str, changes: dict[str, Any]
) -> None:
    model(place, name)
    twin = factories.dataset(place.bench, f"{name}-twin").name
    model(place, twin)
    with place.database.writing() as session:
        mine, other = (versions.live(session, models.by_name(session, each).id)[0] for each in (name, twin))
        other.sha256, other.content_sha256 = mine.sha256, mine.content_sha256
    request_id = ask(place, name, "train-0", **({"models": [name]} if "models" in changes else changes))
    work(place)
    purge(place)
    issue(place)
    raw = place.certificate(request_id).bundle
    assert verify.verify(raw, trusted=place.trusted()).trusted
    line = next(each for each in predicate(raw)["residuals"] if each["name"] == f"model/{name}/version/1")
    assert line["state"] == "retired"
    assert "equal bytes belong to a version" in line["done"]


def test_a_request_accepted_twice_by_an_older_log_has_one_too(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    with place.database.writing() as session:
        requests.note(session, requests.get(session, request_id), "request.accepted", {})
    work(place)
    purge(place)
    issue(place)
    assert verify.verify(place.certificate(request_id).bundle, trusted=place.trusted()).trusted


def test_a_request_of_which_the_log_tells_at_length_has_one_too(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    with place.database.writing() as session:
        [(job, _)] = requests.jobs(session, [request_id])[request_id]
        for _ in range(1000):  # as many models, each tried some times, would make
            jobs.note(session, job, "job.attempt_started", {})
    work(place)
    purge(place)
    issue(place)
    assert verify.verify(place.certificate(request_id).bundle, trusted=place.trusted()).trusted


def test_a_request_that_no_model_knew_has_a_certificate_about_its_log_entry(place: Place, name: str) -> None:
    request_id = ask(place, name, "train-0")
    issue(place)
    raw = place.certificate(request_id).bundle
    assert verify.verify(raw, trusted=place.trusted()).trusted
    assert predicate(raw)["models"] == []
    assert "by the records no version in circulation was trained on the samples" in predicate(raw)["does_not_prove"][0]


def test_what_an_earlier_version_or_another_model_knew_is_not_said_to_be_known_to_none(place: Place, name: str) -> None:
    model(place, name)
    ask(place, name, "train-0", purpose="bias")
    work(place)
    purge(place)
    model(place, f"{name}-other", of=name)
    request_id = ask(place, name, "train-0", models=[name])
    issue(place)
    said = predicate(place.certificate(request_id).bundle)["request"]["says"]
    assert "no version in circulation of the models it names was trained on the samples" in said
    assert "no model was trained" not in said


@pytest.mark.parametrize(("purpose", "models"), [("bias", None), ("privacy", True)])
def test_a_request_that_erases_no_sample_says_so(place: Place, name: str, purpose: str, models: bool | None) -> None:
    model(place, name)
    model(place, f"{name}-other", of=name)
    changes = {"purpose": purpose, "models": [name] if models else None}
    request_id = ask(place, name, "train-0", **changes)
    work(place)
    if not models:
        work(place)
    purge(place)
    issue(place)
    raw = place.certificate(request_id).bundle
    found = predicate(raw)
    assert verify.verify(raw, trusted=place.trusted()).trusted
    assert found["dataset"]["root_before"] == found["dataset"]["root_after"]
    says = "narrowed to some models" if models else "not an erasure"
    assert says in found["request"]["says"]
    assert says in found["does_not_prove"][0]
    left = {r["name"]: r["state"] for r in found["residuals"]}
    if models:
        assert left[f"model/{name}-other/version/1"] == "out_of_scope"


def test_a_request_whose_samples_others_erased_says_that_and_not_that_no_model_knew_them(
    place: Place, name: str
) -> None:
    model(place, name)
    ask(place, name, "train-0")
    work(place)
    request_id = ask(place, name, "train-0")
    purge(place)
    issue(place)
    found = predicate(place.certificate(request_id).bundle)
    assert found["models"] == []
    assert found["forget_set"]["already_erased"] == 1
    assert "the work of other requests" in found["does_not_prove"][0]
    assert "no model was trained" not in json.dumps(found)


def test_roots_follow_one_another(place: Place, name: str) -> None:
    first, second = ask(place, name, "train-0"), ask(place, name, "train-1", "audit-0")
    with place.database.reading() as session:
        one, other = (
            dataset_roots.around(session, requests.get(session, each), master_key=b"k" * 32) for each in (first, second)
        )
    assert one.after == other.before
    assert (one.samples_before, one.samples_after, other.samples_after) == (55, 54, 52)
    assert len({one.before, one.after, other.after}) == 3


def test_what_a_worker_that_is_away_keeps_is_stated_and_not_waited_for(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    work(place)
    with place.database.reading() as session:
        request = requests.get(session, request_id)
        session.expunge(request)
        assert request.completed_at is not None
        request.completed_at -= certificates.PATIENCE + timedelta(seconds=1)
        assert certificates.waits_for(session, request) == [f"model/{name}/version/1"]
    purge(place)


def test_a_rotated_key_leaves_its_certificates_good_and_a_revoked_one_signs_none(place: Place, name: str) -> None:
    first = ask(place, name, "train-0")
    issue(place)
    old = place.trusted()
    with place.database.writing() as session:
        signing_keys.rotate(session, place.parts.settings)
    second = ask(place, name, "train-1")
    issue(place)
    new = place.trusted()
    assert old != new
    assert verify.verify(place.certificate(first).bundle, trusted=old).trusted
    assert verify.verify(place.certificate(second).bundle, trusted=new).trusted
    with pytest.raises(Refused, match="not a trusted key"):
        verify.verify(place.certificate(second).bundle, trusted=old)
    third = ask(place, name, "train-2")
    with place.database.writing() as session:
        current = signing_keys.current(session, place.parts.settings)
        signing_keys.revoke(session, current.key_id, reason="stolen")
    issue(place)
    assert place.certificate(third) is None
    with place.database.writing() as session:
        signing_keys.rotate(session, place.parts.settings)
    issue(place)
    assert verify.verify(place.certificate(third).bundle, trusted=place.trusted()).trusted


def test_nothing_in_a_certificate_names_a_sample(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0", "train-1", "audit-1")
    work(place)
    purge(place)
    issue(place)
    raw = place.certificate(request_id).bundle
    envelopes = json.loads(raw)["envelopes"].values()
    texts = [raw, *(base64.b64decode(envelope["payload"]) for envelope in envelopes)]
    assert not [
        text for text in texts for sample in ("train-0", "train-1", "audit-1") if f"{name}-{sample}".encode() in text
    ]
