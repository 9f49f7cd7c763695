"""The stand-alone verifier: it accepts a whole bundle, and names what is wrong with any other."""

import base64
import copy
import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from service.evidence import bundle, verify
from service.evidence.bundle import LogProofs
from service.evidence.verify import Refused, TrustedKey
from tests import certificate_cases as cases

KEY = cases.key()
PIN = [TrustedKey(pin=KEY.public_key)]
VERIFIER = Path(verify.__file__)


def refusal(raw: bytes, **given: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        verify.verify(raw, trusted=given.pop("trusted", PIN), **given)
    return caught.value


def edited(raw: bytes, change: Callable[[Any], Any]) -> bytes:
    document = json.loads(raw)
    change(document)
    return rfc8785.dumps(document)


def signed_again(raw: bytes, change: Callable[[Any], Any], *, part: str = "certificate") -> bytes:
    """Change a statement and sign it again with the same key: what the operator could do."""
    document = json.loads(raw)
    envelope = document["envelopes"][part]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    payload = rfc8785.dumps(statement)
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(KEY.sign(verify.pae(envelope["payloadType"], payload))).decode()
    return rfc8785.dumps(document)


def test_a_whole_bundle_is_verified_with_its_weights_and_its_report() -> None:
    report = json.dumps({**cases.report(), "id": "evl_1", "plots": {}}).encode()
    verdict = verify.verify(cases.made(), trusted=PIN, weights={"w": cases.sha(cases.WEIGHTS)}, reports={"r": report})
    assert (verdict.trusted, verdict.weights, verdict.reports) == (True, ["m/2"], ["evl_1"])


def test_without_a_trusted_key_the_verdict_is_untrusted_key() -> None:
    verdict = verify.verify(cases.made())
    assert (verdict.trusted, verdict.exit_code) == (False, verify.UNTRUSTED)


def test_another_trusted_key_is_not_this_one() -> None:
    found = refusal(cases.made(), trusted=[TrustedKey(pin=cases.key(2).public_key)])
    assert found.code == "untrusted_key"


def test_a_request_that_no_model_knew_has_a_certificate_about_the_log_entry() -> None:
    raw = cases.made(model=None)
    assert verify.verify(raw, trusted=PIN).trusted
    payload = json.loads(raw)["envelopes"]["certificate"]["payload"]
    subject = json.loads(base64.b64decode(payload))["subject"]
    completed = cases.logged(model=None)["completed"]
    leaf = hashlib.sha256(b"\x00" + rfc8785.dumps(completed.document())).hexdigest()
    assert subject == [{"name": f"audit-entry/{completed.seq}", "digest": {"sha256": leaf}}]


# --- What an attacker could change -----------------------------------------------------------------------------------


def test_a_tampered_entry_is_refused() -> None:
    def change(document: Any) -> None:
        document["log"]["entries"][0]["entry"]["payload"]["num_samples"] = 2

    assert refusal(edited(cases.made(), change)).code == "digest_mismatch"


def test_a_tampered_entry_is_refused_even_if_the_operator_signs_again() -> None:
    entries = cases.logged()
    honest = cases.proofs(entries, KEY)
    forged = cases.entry(1, "request.received", "deletion-request/req_1", {**entries["received"].payload, "extra": 1})
    log = LogProofs(
        checkpoint=honest.checkpoint,
        entries=[(forged if entry.seq == forged.seq else entry, proof) for entry, proof in honest.entries],
    )
    raw = bundle.make(cases.facts(entries), log=log, keys=[cases.record(KEY)], signer=KEY)
    found = refusal(raw)
    assert (found.code, "log entry 1" in str(found)) == ("bad_proof", True)


def test_a_reordered_entry_is_refused() -> None:
    entries = cases.logged()
    honest = cases.proofs(entries, KEY)
    log = LogProofs(checkpoint=honest.checkpoint, entries=list(honest.entries)[::-1])
    raw = bundle.make(cases.facts(entries), log=log, keys=[cases.record(KEY)], signer=KEY)
    assert "out of order" in str(refusal(raw))
    assert refusal(edited(cases.made(), lambda b: b["log"]["entries"].reverse())).code == "digest_mismatch"


def test_an_entry_under_another_number_is_refused() -> None:
    entries = cases.logged()
    honest = cases.proofs(entries, KEY)
    swapped = [
        (cases.entry(entry.seq + 1 if entry.action == "version.purged" else entry.seq, entry.action, entry.subject,
                     dict(entry.payload)), proof)
        for entry, proof in honest.entries
    ]  # fmt: skip
    log = LogProofs(checkpoint=honest.checkpoint, entries=swapped)
    raw = bundle.make(cases.facts(entries), log=log, keys=[cases.record(KEY)], signer=KEY)
    assert refusal(raw).code == "bad_proof"


def test_a_deleted_tail_is_refused() -> None:
    """A log cut behind the completion has another root, and the entries after the cut are in it no more."""
    entries = cases.logged()
    leaves = [rfc8785.dumps(each.document()) for each in entries.values()]
    honest = cases.proofs(entries, KEY)
    cut = cases.checkpoint(leaves[: entries["completed"].seq], KEY)
    log = LogProofs(checkpoint=cut, entries=honest.entries)
    raw = bundle.make(cases.facts(entries), log=log, keys=[cases.record(KEY)], signer=KEY)
    assert refusal(raw).code == "bad_proof"
    only_the_last = LogProofs(checkpoint=cut, entries=honest.entries[-2:])
    raw = bundle.make(cases.facts(entries), log=only_the_last, keys=[cases.record(KEY)], signer=KEY)
    found = refusal(raw)
    assert (found.code, "beyond the checkpoint" in str(found)) == ("bad_proof", True)


def test_a_bundle_that_lacks_an_entry_it_names_is_refused() -> None:
    entries = cases.logged()
    honest = cases.proofs(entries, KEY)
    for missing in ("received", "accepted", "completed", "published", "evaluation", "purged"):
        kept = [pair for pair in honest.entries if pair[0].seq != entries[missing].seq]
        log = LogProofs(checkpoint=honest.checkpoint, entries=kept)
        raw = bundle.make(cases.facts(entries), log=log, keys=[cases.record(KEY)], signer=KEY)
        assert refusal(raw).code == "bad_log", missing


def test_a_swapped_checkpoint_is_refused() -> None:
    other = json.loads(cases.made(request="req_2"))["log"]["checkpoint"]
    raw = edited(cases.made(), lambda document: document["log"].update(checkpoint=other))
    assert refusal(raw).code == "digest_mismatch"


def test_a_swapped_checkpoint_is_refused_even_if_the_operator_signs_again() -> None:
    entries = cases.logged()
    honest = cases.proofs(entries, KEY)
    other = cases.proofs(cases.logged("req_2"), KEY).checkpoint
    log = LogProofs(checkpoint=other, entries=honest.entries)
    raw = bundle.make(cases.facts(entries), log=log, keys=[cases.record(KEY)], signer=KEY)
    assert refusal(raw).code == "bad_proof"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda note: note.replace(cases.LOG_NAME + "\n", "other.example\n", 1), "of the log"),
        (lambda note: note.replace("\n\n", "\n"), "not a signed note"),
        (lambda note: note + note.splitlines()[-1] + "\n", "2 signatures"),
        (lambda note: cases.note(note.rpartition("\n\n")[0] + "\n", cases.key(2)), "0 signatures"),
        (lambda note: note.replace("\n12\n", "\n13\n"), "signature of the checkpoint"),
        (lambda note: note.replace("\n12\n", "\n012\n"), "not a signed note"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_the_key_did_not_sign_is_refused(spoil: Callable[[str], str], says: str) -> None:
    entries = cases.logged()
    honest = cases.proofs(entries, KEY)
    spoilt = spoil(honest.checkpoint)
    assert spoilt != honest.checkpoint
    log = LogProofs(checkpoint=spoilt, entries=honest.entries)
    raw = bundle.make(cases.facts(entries), log=log, keys=[cases.record(KEY)], signer=KEY)
    assert says in str(refusal(raw))


def test_a_certificate_with_one_byte_changed_is_refused_wherever_it_is() -> None:
    raw = cases.made()
    for place in range(0, len(raw), 7):
        changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        refusal(changed)


def test_weights_with_one_byte_changed_are_refused() -> None:
    changed = bytes([cases.WEIGHTS[0] ^ 1]) + cases.WEIGHTS[1:]
    found = refusal(cases.made(), weights={"weights.safetensors": cases.sha(changed)})
    assert (found.code, "weights.safetensors" in str(found)) == ("weights_mismatch", True)


def test_a_report_with_one_figure_changed_is_refused() -> None:
    report = cases.report()
    report["metrics"][0]["value"] = 0.5
    assert refusal(cases.made(), reports={"r": json.dumps(report).encode()}).code == "report_mismatch"
    assert refusal(cases.made(), reports={"r": b"[]"}).code == "report_mismatch"


def test_another_requests_envelope_is_refused() -> None:
    other = json.loads(cases.made(request="req_2"))["envelopes"]
    for part in verify.PREDICATES:
        document = json.loads(cases.made())
        document["envelopes"][part] = other[part]
        refusal(rfc8785.dumps(document))


def test_another_key_in_the_keys_place_is_refused() -> None:
    theirs = cases.record(cases.key(2)).document()
    assert refusal(edited(cases.made(), lambda b: b.update(keys=[theirs]))).code == "unknown_key"
    under_our_name = {**theirs, "key_id": cases.record(KEY).document()["key_id"]}
    assert refusal(edited(cases.made(), lambda b: b.update(keys=[under_our_name]))).code == "unknown_key"
    whole = cases.made(signer=cases.key(2))
    assert refusal(whole).code == "untrusted_key"


# --- Keys: validity, rotation, revocation ----------------------------------------------------------------------------


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


# --- What the operator cannot state against their own log -------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p["forget_set"].update(commitment_root="0" * 64), "commitment_root"),
        (lambda p: p["forget_set"].update(num_samples=4), "num_samples"),
        (lambda p: p["forget_set"]["outcomes"].update(erased=4), "outcomes"),
        (lambda p: p["request"].update(id="req_2"), "request.received"),
        (lambda p: p["request"].update(purpose="bias"), "purpose"),
        (lambda p: p["request"].update(scope="partial"), "scope"),
        (lambda p: p["request"].update(overdue=True), "overdue"),
        (lambda p: p["request"].update(due_at="2027-01-01T00:00:00Z"), "due_at"),
        (lambda p: p["request"].update(due_at=None), "due_at"),
        (lambda p: p["request"].update(completed_at="2026-03-01T00:00:00Z"), "completed_at"),
        (lambda p: p["models"][0]["criteria"].update(policy_sha256="0" * 64), "criteria"),
        (lambda p: p["models"][0]["criteria"].update(log_index=1), "froze none"),
        (lambda p: p["models"][0]["criteria"].update(log_index=99), "lacks log entry 99"),
        (lambda p: p["models"][0]["result"].update(sha256="0" * 64), "new weights"),
        (lambda p: p["models"][0]["result"].update(version=3), "version"),
        (lambda p: p["models"][0]["verification"].update(gate="fail"), "gate"),
        (lambda p: p["models"][0]["verification"].update(report_sha256="0" * 64), "report"),
        (lambda p: p["models"][0]["method"].update(id="retrain"), "method"),
        (lambda p: p["models"][0]["method"].update(guarantee="exact"), "no guarantee"),
        (lambda p: p["models"][0]["method"].update(parameters_sha256="0" * 64), "parameters"),
        (lambda p: p["models"][0]["parent"].update(sha256="0" * 64), "parent"),
        (lambda p: p["residuals"][0].update(log_index=None), "no log entry says so"),
        (lambda p: p["residuals"][0].update(sha256="0" * 64), "digest of model/m/version/1"),
        (lambda p: p["residuals"][0].update(name="model/m/version/9"), "purge of model/m/version/9"),
        (lambda p: p["request"].update(received_at="2026-03-02T09:00:00Z"), "received_at"),
        (lambda p: p["models"][0].update(model="n"), "criteria of n"),
        (lambda p: p["models"].append(p["models"][0]), "the list of jobs"),
        (lambda p: p.update(models=[]), "the list of jobs"),
        (lambda p: p.update(does_not_prove=[]), "has 0 items"),
        (lambda p: p.update(surprise=1), "surprise"),
        (lambda p: p.pop("residuals"), "residuals"),
    ],
)  # fmt: skip
def test_a_certificate_that_disagrees_with_the_log_is_refused(change: Callable[[Any], Any], says: str) -> None:
    raw = signed_again(cases.made(), lambda statement: change(statement["predicate"]))
    assert says in str(refusal(raw))


@pytest.mark.parametrize(
    ("name", "payload", "says"),
    [
        ("evaluation", {"job": "job_2"}, "the job whose evaluation"),
        ("published", {"model": "n"}, "the model that job_1 made"),
        ("completed", {"jobs": ["job_1", "job_2"]}, "the list of jobs"),
    ],
)
def test_a_certificate_that_leaves_out_or_mixes_what_the_log_has_is_refused(
    name: str, payload: dict[str, Any], says: str
) -> None:
    entries = cases.logged()
    entries[name] = replace(entries[name], payload={**entries[name].payload, **payload})
    log, keys = cases.proofs(entries, KEY), [cases.record(KEY)]
    raw = bundle.make(cases.facts(entries), log=log, keys=keys, signer=KEY)
    assert says in str(refusal(raw))


def test_a_list_of_jobs_too_long_for_the_log_is_held_against_its_digest() -> None:
    entries, listed = cases.logged(), rfc8785.dumps(["job_1"])
    digest = {"omitted_bytes": len(listed), "sha256": verify.sha256(listed)}
    entries["completed"] = replace(entries["completed"], payload={**entries["completed"].payload, "jobs": digest})
    log, keys = cases.proofs(entries, KEY), [cases.record(KEY)]
    raw = bundle.make(cases.facts(entries), log=log, keys=keys, signer=KEY)
    assert verify.verify(raw, trusted=PIN).trusted


def test_criteria_that_were_frozen_after_the_evaluation_are_refused() -> None:
    entries = cases.logged()
    entries["tail"] = replace(
        entries["tail"], action="job.queued", subject="job/job_1", payload={"policy_digest": cases.sha("policy")}
    )
    model = replace(cases.facts(entries).models[0], criteria_entry=entries["tail"].seq)
    log, keys = cases.proofs(entries, KEY), [cases.record(KEY)]
    raw = bundle.make(cases.facts(entries, models=[model]), log=log, keys=keys, signer=KEY)
    assert "not evaluated after its criteria were frozen" in str(refusal(raw))


def test_a_name_that_stands_twice_among_the_inputs_is_refused() -> None:
    statement = json.loads(base64.b64decode(json.loads(cases.made())["envelopes"]["provenance"]["payload"]))
    inputs = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    inputs.insert(0, {**inputs[0], "digest": {"sha256": "0" * 64}})
    payload = rfc8785.dumps(statement)
    raw = signed_again(
        cases.made(), lambda s: s["predicate"]["evidence"].update(provenance_sha256=verify.sha256(payload))
    )
    raw = edited(raw, lambda d: d["envelopes"].update(provenance=bundle.envelope(payload, KEY)))
    assert "stands twice among the provenance's dependencies" in str(refusal(raw))


@pytest.mark.parametrize(("share", "again"), [(0.0, False), (1.0, True)])
def test_the_draw_for_a_second_execution_is_drawn_again(share: float, again: bool) -> None:
    told = cases.account(cases.logged(), KEY, share=share, again=again)
    assert verify.verify(cases.made_twice(KEY, told), trusted=PIN).trusted


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"share": 0.0}, "does not follow from the draw"),
        ({"chosen": False}, "does not follow from the draw"),
        ({"because": "another_result_was_committed_before"}, "does not follow from the draw"),
        ({"draw": "0" * 64}, "does not follow from the checkpoint"),
        ({"checkpoint": {"size": 4, "note": cases.checkpoint([b"other"] * 4, KEY)}}, "the checkpoint after its"),
        ({"checkpoint": {"size": 4, "note": cases.checkpoint([b"a"] * 4, cases.key(2))}}, "none of the bundle's keys"),
        ({"committed": {"seq": 2, "sha256": cases.sha(cases.WEIGHTS)}}, "was committed to"),
        ({"committed": {"seq": 3, "sha256": "0" * 64}}, "was committed to"),
        ({"sha256": "0" * 64}, "made twice"),
        ({"equal": False}, "equal weights are not shown"),
        ({"reexecuted_sha256": "0" * 64}, "equal weights are not shown"),
        ({"reexecuted_sha256": "0" * 64, "bit_for_bit": False}, "equal weights are not shown"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_an_untrue_account_of_a_second_execution_is_refused(change: dict[str, Any], says: str) -> None:
    told = cases.account(cases.logged(), KEY, share=1.0, again=True)
    assert says in str(refusal(cases.made_twice(KEY, {**told, **change})))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["verification"]["results"][0].update(value=0.4), "another list of figures"),
        (lambda m: m["verification"]["results"].pop(), "another list of figures"),
        (lambda m: m["verification"].update(sentence="All is well."), "another verdict"),
        (lambda m: m["method"].update(kind="exact", guarantee="exact"), "another guarantee"),
    ],
)
def test_a_certificate_that_says_other_than_the_report_is_refused(change: Callable[[Any], Any], says: str) -> None:
    raw = signed_again(cases.made(), lambda statement: change(statement["predicate"]["models"][0]))
    report = json.dumps(cases.report()).encode()
    assert says in str(refusal(raw, reports={"report.json": report}))


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_a_certificate_says_what_each_model_is_for_as_its_report_does(task: str) -> None:
    whole = cases.report(task=task)
    found = verify.verify(cases.made_from(whole), trusted=PIN, reports={"r": json.dumps(whole).encode()})
    assert found.certificate["models"][0]["task"] == task


def test_a_certificate_that_names_another_task_than_the_report_is_refused() -> None:
    whole = cases.report(task="generation")
    raw = signed_again(
        cases.made_from(whole), lambda statement: statement["predicate"]["models"][0].update(task="classification")
    )
    found = refusal(raw, reports={"r": json.dumps(whole).encode()})
    assert (found.code, "another task" in str(found)) == ("report_mismatch", True)


def test_a_certificate_of_before_reports_named_the_task_is_good_and_says_nothing_of_it() -> None:
    report = json.dumps(cases.report()).encode()
    found = verify.verify(cases.made(), trusted=PIN, reports={"r": report})
    assert (found.trusted, "task" in found.certificate["models"][0]) == (True, False)


@pytest.mark.parametrize("task", [None, 1, "", "Painting", "x" * 65])
def test_a_task_that_is_no_word_is_refused(task: Any) -> None:
    raw = signed_again(cases.made(), lambda statement: statement["predicate"]["models"][0].update(task=task))
    assert refusal(raw).code == "bad_shape"


@pytest.mark.parametrize("part", ["provenance", "test_result"])
def test_statements_beside_the_certificate_cannot_be_exchanged(part: str) -> None:
    def change(statement: Any) -> None:
        statement["subject"][0]["digest"]["sha256"] = "0" * 64

    assert refusal(signed_again(cases.made(), change, part=part)).code == "digest_mismatch"


def test_subjects_that_differ_are_refused() -> None:
    raw = signed_again(cases.made(), lambda s: s["subject"][0]["digest"].update(sha256="0" * 64))
    assert refusal(raw).code == "subjects_differ"


# --- Forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"[]", b"{}", b"{", b"\xff", b'{"a":1,"a":1}', b"NaN", b"1e400", b"[" * 100_000, b'"\\ud800"',
        json.dumps(json.loads(cases.made())).encode(), cases.made() + b"\n", b"\xef\xbb\xbf" + cases.made(),
        b"9007199254740993", b"1.0",
    ],
)  # fmt: skip
def test_what_is_not_a_canonical_bundle_is_refused(raw: bytes) -> None:
    assert refusal(raw).code in ("not_json", "not_canonical", "bad_shape")


def test_a_bundle_nested_too_deeply_is_refused_and_not_a_fault() -> None:
    def change(statement: Any) -> None:
        inner: Any = {}
        for _ in range(700):
            inner = {"a": inner}
        statement["predicate"]["buildDefinition"]["externalParameters"]["options"] = inner

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(6000)  # for the making of it alone
    try:
        raw = signed_again(cases.made(), change, part="provenance")
    finally:
        sys.setrecursionlimit(limit)
    assert refusal(raw).code in ("not_json", "not_canonical")


def test_a_second_base64_form_of_the_same_bytes_is_refused() -> None:
    def change(document: Any) -> None:
        signature = document["envelopes"]["certificate"]["signatures"][0]
        *most, last = signature["sig"].removesuffix("==")
        signature["sig"] = "".join(most) + chr(ord(last) + 1) + "=="

    assert refusal(edited(cases.made(), change)).code == "bad_encoding"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(JSON_VALUES)
def test_canonical_bytes_equal_those_of_an_independent_implementation(value: Any) -> None:
    assert verify.canonical(value) == rfc8785.dumps(value)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-1074, 1023).map(lambda e: math.ldexp(1.0, e)))
@settings(max_examples=500)
def test_numbers_are_written_as_ecmascript_does(value: float) -> None:
    assert verify.canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e21, "1e+21"), (1e20, "100000000000000000000"), (1e-6, "0.000001"), (1e-7, "1e-7"), (-0.0, "0"),
     (5e-324, "5e-324"), (333333333.33333329, "333333333.3333333"), (1.5e300, "1.5e+300")],
)  # fmt: skip
def test_numbers_of_the_specification(value: float, text: str) -> None:
    assert verify.canonical(value).decode() == text


def test_a_number_beyond_two_to_the_53_is_read_back_as_it_was_written() -> None:
    raw = rfc8785.dumps({"loss": 1e17, "less": -3e20})
    assert raw == b'{"less":-300000000000000000000,"loss":100000000000000000}'
    assert verify.read_canonical(raw, "it") == {"loss": 1e17, "less": -3e20}
    with pytest.raises(Refused, match="not in canonical bytes"):
        verify.read_canonical(b"9007199254740993", "it")
    with pytest.raises(Refused, match="cannot be written canonically"):
        verify.read_canonical(b"9" * 400, "it")


def _spoilt_documents() -> list[Any]:
    """The predicate with each of its members, at any depth, taken away or replaced."""
    payload = json.loads(cases.made())["envelopes"]["certificate"]["payload"]
    whole = json.loads(base64.b64decode(payload))["predicate"]
    found = [whole]

    def walk(place: list[Any]) -> None:
        node = whole
        for step in place:
            node = node[step]
        steps = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
        for step in steps:
            for value in (None, 1, -1, 1.5, True, "x", "", [], {}, ["x"], {"x": 1}, "0" * 64, "2026-01-01T00:00:00Z"):
                changed = copy.deepcopy(whole)
                inner = changed
                for at in place:
                    inner = inner[at]
                inner[step] = value
                found.append(changed)
            changed = copy.deepcopy(whole)
            inner = changed
            for at in place:
                inner = inner[at]
            del inner[step]
            found.append(changed)
            walk([*place, step])

    walk([])
    return found


def test_the_check_of_shape_agrees_with_json_schema() -> None:
    """The verifier reads a part of JSON Schema by itself; a full implementation says the same of every document."""
    jsonschema.Draft202012Validator.check_schema(verify.PREDICATE_SCHEMA)
    validator = jsonschema.Draft202012Validator(verify.PREDICATE_SCHEMA)
    documents = _spoilt_documents()
    verdicts = []
    for document in documents:
        try:
            verify.check_shape(document, verify.PREDICATE_SCHEMA)
            verdicts.append(True)
        except Refused:
            verdicts.append(False)
    assert verdicts == [validator.is_valid(document) for document in documents]
    assert verdicts[0]
    assert verdicts.count(False) > 1000


@pytest.mark.parametrize("part", sorted(verify.PREDICATES))
def test_the_envelopes_are_dsse_by_an_independent_implementation(part: str) -> None:
    envelope = Envelope.from_dict(json.loads(cases.made())["envelopes"][part])
    key = SSlibKey.from_crypto(KEY.private.public_key(), keyid=cases.sha(KEY.public_key))
    assert list(envelope.verify([key], 1)) == [cases.sha(KEY.public_key)]
    assert json.loads(envelope.payload)["predicateType"] == verify.PREDICATES[part]


# --- The file by itself ----------------------------------------------------------------------------------------------


def alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the file in an otherwise empty folder, isolated, where sockets raise."""
    shutil.copy(VERIFIER, folder / "verify.py")
    offline = "import socket, sys, runpy; socket.socket = None; sys.argv = sys.argv[1:]; "
    offline += "runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-c", offline, "verify.py", *arguments], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundle.json").write_bytes(cases.made())
    (tmp_path / "new.safetensors").write_bytes(cases.WEIGHTS)
    (tmp_path / "other.safetensors").write_bytes(b"other")
    return tmp_path


def verifier_key(key: cases.Key) -> str:
    key_id = hashlib.sha256(key.name.encode() + b"\n\x01" + key.public_key).digest()[:4]
    encoded = base64.b64encode(b"\x01" + key.public_key).decode()
    return f"{key.name}+{key_id.hex()}+{encoded}"


def test_the_file_runs_alone_and_offline(folder: Path) -> None:
    given = ("bundle.json", "--trusted-key", KEY.public_key.hex(), "--weights", "new.safetensors")
    done = alone(folder, *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("VERIFIED\n")
    assert "approximate, no guarantee" in done.stdout


def test_the_file_imports_nothing_but_the_standard_library_and_cryptography(folder: Path) -> None:
    shutil.copy(VERIFIER, folder / "verify.py")
    script = "import sys;sys.path.insert(0,'.');import verify;print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    strange = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert "service" not in strange
    named = {"verify", "cryptography", "_cffi_backend", "__main__", "cython_runtime", "_cython_3_1_4"}
    assert {name for name in strange if not name.startswith(("_", "cython"))} <= named


@pytest.mark.parametrize(
    "text",
    [KEY.public_key.hex(), cases.sha(KEY.public_key), base64.b64encode(KEY.public_key).decode(), verifier_key(KEY)],
)
def test_a_trusted_key_may_be_given_in_each_of_its_forms(folder: Path, text: str) -> None:
    assert alone(folder, "bundle.json", "--trusted-key", text).returncode == 0
    (folder / "key.txt").write_text(f"{verifier_key(cases.key(2))}\n{text}\n")
    assert alone(folder, "bundle.json", "--trusted-key", "key.txt").returncode == 0


def test_a_list_of_keys_with_their_dates_may_be_trusted(folder: Path) -> None:
    row = cases.record(KEY).document()
    (folder / "keys.json").write_text(json.dumps({"items": [row]}))
    assert alone(folder, "bundle.json", "--trusted-key", "keys.json").returncode == 0
    elsewhere = verifier_key(replace(KEY, name="other.example/log"))
    (folder / "keys.json").write_text(json.dumps({"items": [{**row, "verifier_key": elsewhere}]}))
    assert alone(folder, "bundle.json", "--trusted-key", "keys.json").returncode == 1
    (folder / "keys.json").write_text(json.dumps([{**row, "revoked_at": "2026-03-02T09:00:00Z"}]))
    done = alone(folder, "bundle.json", "--trusted-key", "keys.json")
    assert (done.returncode, "key_revoked" in done.stderr) == (1, True)


def test_what_is_not_gone_is_said(folder: Path) -> None:
    done = alone(folder, "bundle.json")
    assert "\nleft         dataset/digits: kept\n" in done.stdout
    assert "model/m/version/1" not in done.stdout


def test_what_each_model_is_for_is_said_where_the_certificate_names_it(folder: Path) -> None:
    done = alone(folder, "bundle.json")
    assert "\nmodel        m/2 by scrub_r (approximate, no guarantee), gate: pass\n" in done.stdout
    (folder / "bundle.json").write_bytes(cases.made_from(cases.report(task="generation")))
    done = alone(folder, "bundle.json")
    assert "\nmodel        m/2, for generation, by scrub_r (approximate, no guarantee), gate: pass\n" in done.stdout


def test_nothing_in_a_bundle_steers_the_terminal(folder: Path) -> None:
    spoken = "\x1b[2J\x1b[HVERIFIED\nVERIFIED\u202e"
    raw = signed_again(cases.made(), lambda s: s["predicate"].update(does_not_prove=[spoken]))
    (folder / "loud.json").write_bytes(raw)
    done = alone(folder, "loud.json")
    assert (done.returncode, "\x1b" in done.stdout, "\nVERIFIED" in done.stdout) == (3, False, False)
    assert "\\x1b[2J\\x1b[HVERIFIED\\nVERIFIED\\u202e" in done.stdout
    (folder / "loud.json").write_bytes(edited(cases.made(), lambda d: d.update({spoken: 1})))
    done = alone(folder, "loud.json")
    assert (done.returncode, "\x1b" in done.stderr) == (1, False)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("bundle.json",), 3, ""),
        (("bundle.json", "--trusted-key", cases.key(2).public_key.hex()), 1, "not a trusted key"),
        (("bundle.json", "--trusted-key", KEY.public_key.hex(), "--weights", "other.safetensors"), 1, "none of"),
        (("bundle.json", "--trusted-key", "nonsense"), 2, "trusted key cannot be read"),
        (("bundle.json", "--trusted-key", ""), 2, "names no key"),
        (("absent.json",), 4, "cannot read absent.json"),
        (("bundle.json", "--weights", "absent"), 4, "cannot read absent"),
        ((), 2, "usage"),
    ],
)
def test_each_end_has_its_exit_code_and_says_why(
    folder: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = alone(folder, *arguments)
    assert (done.returncode, says in done.stderr) == (code, True)
    assert done.stdout.startswith("UNTRUSTED KEY") == (code == 3)


def _resumed(restated: dict[str, Any]) -> bytes:
    """Return the bundle of a request that was held after it was accepted, and then went on."""
    rows = list(cases.logged().items())
    subject = "deletion-request/req_1"
    held = cases.entry(0, "request.on_hold", subject, {"reason": "approval_needed"})
    rows[3:3] = [("held", held), ("resumed", cases.entry(0, "request.accepted", subject, restated))]
    entries = {name: cases.entry(seq, e.action, e.subject, dict(e.payload)) for seq, (name, e) in enumerate(rows)}
    return bundle.make(cases.facts(entries), log=cases.proofs(entries, KEY), keys=[cases.record(KEY)], signer=KEY)


def test_a_request_that_was_held_and_went_on_has_a_certificate() -> None:
    assert verify.verify(_resumed({}), trusted=PIN).trusted


def test_a_second_acceptance_moves_no_date_unnoticed() -> None:
    raw = _resumed({"due_at": "2031-01-01T00:00:00+00:00"})
    with pytest.raises(Refused) as found:
        verify.verify(raw, trusted=PIN)
    assert found.value.code == "inconsistent"
