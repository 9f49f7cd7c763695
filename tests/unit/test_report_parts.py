"""A report that several requests share is shown to each without the others, and stays bound to the logged digest."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copy
from typing import Any

import jsonschema
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from service.evidence import report_parts, verify
from service.evidence.rendering import render
from service.evidence.report_parts import Cut
from service.evidence.verify import Refused, TrustedKey, report_digest
from service.schemas.report_figures import PartsOut
from tests import certificate_cases as cases

KEY = cases.key()
PIN = [TrustedKey(pin=KEY.public_key)]
SHARED = cases.shared_report(200)


def whole(cut: Cut) -> dict[str, Any]:
    return report_parts.joined(cut.stored, [each.document for each in cut.figures])


def own(cut: Cut) -> dict[str, Any]:
    return report_parts.shown_to(cut.stored, next(each for each in cut.figures if each.request_id == "req_1"))


def parts_of(raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = verify.verify(raw).certificate["models"][0]["verification"]["parts"]
    return found


def refusal(raw: bytes, **given: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        verify.verify(raw, trusted=PIN, **given)
    return caught.value


def test_a_report_that_nobody_shares_keeps_the_digest_of_its_bytes() -> None:
    cut = report_parts.cut(cases.report(per_request=[]))
    assert (cut.stored, cut.figures) == (cases.report(per_request=[]), [])
    assert cut.sha256 == cases.sha(rfc8785.dumps(cases.report(per_request=[])))


def test_a_report_of_before_there_were_parts_keeps_its_digest_though_it_was_shared() -> None:
    old = cases.report(per_request=cases.figures(["req_1", "req_2"]))
    assert report_digest(old) == cases.sha(rfc8785.dumps(old))


@given(st.integers(2, 70))
def test_whole_or_shown_to_any_one_request_a_report_has_the_digest_in_the_log(sharing: int) -> None:
    cut = cases.shared_report(sharing)
    assert report_digest({**whole(cut), "id": "evl_1", "plots": {}}) == cut.sha256
    for figure in cut.figures:
        assert report_digest(report_parts.shown_to(cut.stored, figure)) == cut.sha256


def test_a_certificate_is_as_large_with_200_requests_sharing_the_work_as_with_two() -> None:
    few, many = cases.made_shared(KEY, cases.shared_report(2)), cases.made_shared(KEY, SHARED)
    assert verify.verify(many, trusted=PIN).trusted
    # The path through the tree over the figures is six or seven hashes longer; base64 makes four of three bytes.
    assert len(few) <= len(many) <= len(few) + 800
    assert len(many) <= len(cases.made()) + 2_500


def test_nothing_of_another_request_is_in_a_certificate_or_in_the_report_shown() -> None:
    certificate = verify.verify(cases.made_shared(KEY, SHARED), trusted=PIN).certificate
    for text in (json.dumps(certificate), json.dumps(own(SHARED))):
        others = [each for each in SHARED.figures if each.request_id != "req_1"]
        assert not any(each.request_id in text or each.document["salt"] in text for each in others)


def test_equal_figures_do_not_have_equal_hashes() -> None:
    """Else whoever knows a request's id could try out the few figures that it may have."""
    first, second = (report_parts.cut(cases.report(per_request=cases.figures(["req_1", "req_2"]))) for _ in range(2))
    assert first.figures[1].proof != second.figures[1].proof
    assert len({each.document["salt"] for each in SHARED.figures}) == 200


@pytest.mark.parametrize("shown", [whole, own])
def test_a_certificate_is_verified_with_the_report_whole_or_without_the_others(shown: Callable[[Cut], Any]) -> None:
    report = json.dumps({**shown(SHARED), "id": "evl_1", "plots": {}}).encode()
    verdict = verify.verify(cases.made_shared(KEY, SHARED), trusted=PIN, reports={"r": report})
    assert (verdict.trusted, verdict.reports) == (True, ["evl_1"])


def _members(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(node, dict | list):
        inner = node.items() if isinstance(node, dict) else enumerate(node)
        return [each for name, value in inner for each in _members(value, (*path, name))]
    return [path]


def _altered(value: Any) -> Any:
    if isinstance(value, str):
        return ("0" if value[:1] != "0" else "1") + value[1:]
    return 0.125 if value is None else value + 1


def _with(document: Any, path: tuple[Any, ...]) -> Any:
    found = json.loads(json.dumps(document))
    holder = found
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = _altered(holder[path[-1]])
    return found


CUT = cases.shared_report(5)
PARTS = parts_of(cases.made_shared(KEY, CUT))


@pytest.mark.parametrize("path", [each for each in _members(PARTS) if each != ("scheme",)], ids=str)
def test_a_part_of_a_certificate_that_was_altered_is_refused_though_it_was_signed_again(path: tuple[Any, ...]) -> None:
    altered = _with(PARTS, path)
    del altered["scheme"]
    assert refusal(cases.made_shared(KEY, CUT, **altered)).code in (
        "digest_mismatch", "bad_proof", "inconsistent",
    )  # fmt: skip


@pytest.mark.parametrize("shown", [whole, own])
def test_a_report_altered_in_any_place_is_refused(shown: Callable[[Cut], Any]) -> None:
    raw = cases.made_shared(KEY, CUT)
    for path in _members(shown(CUT)):
        altered = json.dumps(_with(shown(CUT), path)).encode()
        assert refusal(raw, reports={"r": altered}).code in ("report_mismatch", "bad_proof"), path


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report["per_request"].pop(),
        lambda report: report["per_request"].reverse(),
        lambda report: report["per_request"].append(report["per_request"][0]),
        lambda report: report.pop("per_request"),
        lambda report: report.pop("parts"),
        lambda report: report["parts"].pop("root"),
        lambda report: report["parts"].update(requests="5"),
    ],
)
def test_a_report_whose_figures_are_not_all_there_in_order_is_refused(change: Callable[[Any], Any]) -> None:
    altered = json.loads(json.dumps(whole(CUT)))
    change(altered)
    found = refusal(cases.made_shared(KEY, CUT), reports={"r": json.dumps(altered).encode()})
    assert found.code == "report_mismatch"


def test_the_figure_of_another_request_is_refused() -> None:
    other = CUT.figures[0]
    shown = {"figure": dict(other.document), "index": other.index, "proof": other.proof}
    assert "whose figure" in str(refusal(cases.made_shared(KEY, CUT, own=shown)))
    report = json.dumps(report_parts.shown_to(CUT.stored, other)).encode()
    assert "own samples" in str(refusal(cases.made_shared(KEY, CUT), reports={"r": report}))


def test_the_page_for_people_shows_the_requests_own_figure() -> None:
    page = render(cases.made_shared(KEY, SHARED))
    assert "mia_threshold.phi.auc 0.5 (0.25 to 0.75), 3 samples. 200 requests shared the work." in page
    assert "shared the work" not in render(cases.made())


def test_what_is_shown_has_the_form_that_is_documented() -> None:
    PartsOut.model_validate(own(CUT)["parts"])
    jsonschema.validate(verify.verify(cases.made_shared(KEY, CUT)).certificate, verify.PREDICATE_SCHEMA)


def test_the_verifier_alone_in_an_empty_folder_checks_a_shared_certificate_and_its_report(tmp_path: Path) -> None:
    copy(verify.__file__, tmp_path / "verify.py")
    (tmp_path / "bundle.json").write_bytes(cases.made_shared(KEY, SHARED))
    (tmp_path / "report.json").write_text(json.dumps({**own(SHARED), "id": "evl_1"}))
    command = [sys.executable, "-I", "verify.py", "bundle.json", "--trusted-key", KEY.public_key.hex()]
    done = subprocess.run(
        [*command, "--report", "report.json"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "200 requests shared the work" in done.stdout
