"""What a certificate says must agree with the log, the report and itself."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import rfc8785

from service.evidence import bundle, verify
from service.evidence.verify import Refused
from tests import certificate_cases as cases
from tests.unit.certificate_verifier.bundles import KEY, PIN, edited, refusal, signed_again


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
