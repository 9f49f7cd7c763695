"""A whole bundle is verified; one whose entries, checkpoint, weights or report were exchanged is not."""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785

from service.evidence import bundle, verify
from service.evidence.bundle import LogProofs
from service.evidence.verify import TrustedKey
from tests import certificate_cases as cases
from tests.unit.certificate_verifier.bundles import KEY, PIN, edited, refusal


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


def test_a_bundle_with_two_completions_of_its_request_is_refused() -> None:
    """Which of them led to the versions nobody could say: after a restore the bundle shows the one that did."""
    entries = cases.logged()
    first = entries["completed"]
    again = cases.entry(len(entries), first.action, first.subject, dict(first.payload))
    log = cases.proofs({**entries, "again": again}, KEY)
    raw = bundle.make(cases.facts(entries), log=log, keys=[cases.record(KEY)], signer=KEY)
    found = refusal(raw)
    assert (found.code, "2 log entries request.completed" in str(found)) == ("bad_log", True)


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
