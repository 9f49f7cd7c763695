"""The gate: each rule of a bound by a hand-made case, and what the bounds together decide."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue.bounds import DEFAULT_BOUNDS, Bound
from workers.evaluation.bound_rules import Figures, rule
from workers.evaluation.gate import Bar, judge

AUC, RATIO, DROP = "mia_threshold.phi.auc", "relearning_ratio", "utility_drop"
NOTICED = {"relearning": {"noticed": True}}


def _figure(name: str, value: float | None, ci95: Sequence[float] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "ci95": ci95, "n": 600, "verdict": "measured", **more}


def _report(**changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a report that keeps every default bound of privacy, with figures changed or left out (None)."""
    figures = {
        "drop": _figure(DROP, 0.004, (-0.002, 0.010), split="test"),
        "auc": _figure(AUC, 0.51, (0.48, 0.54)),
        "ratio": _figure(RATIO, 1.1, (0.9, 1.3)),
        **changes,
    }
    return [figure for figure in figures.values() if figure]


PARENT = [_figure(AUC, 0.8, (0.77, 0.83)), _figure("mia_threshold.phi.retain_auc", 0.6, (0.5, 0.7))]


def _judge(metrics: list[dict[str, Any]], parent: list[dict[str, Any]] = PARENT, **how: Any) -> dict[str, Any]:
    bar = Bar(bounds=DEFAULT_BOUNDS["privacy"], max_accuracy_drop=0.02, disclose_small=how.pop("disclose", True))
    return judge(bar, metrics, parent, **{"planted_leak": NOTICED, **how})


def _of(result: dict[str, Any], metric: str) -> list[str]:
    return [bound["verdict"] for bound in result["bounds"] if bound["metric"] == metric]


def test_a_model_that_keeps_every_bound_passes() -> None:
    result = _judge(_report())
    assert result["verdict"] == "pass"
    assert not result["disclosed"]
    assert _of(result, AUC) == ["pass"]


@pytest.mark.parametrize(
    ("ci95", "expected"),
    [
        ((0.44, 0.56), "pass"),
        ((0.40, 0.43), "fail"),  # over-forgetting shows membership as well
        ((0.58, 0.70), "fail"),
        ((0.52, 0.58), "inconclusive"),
        ((0.30, 0.70), "inconclusive"),
    ],
)
def test_the_attack_must_lie_inside_the_band_on_both_sides(ci95: tuple[float, float], expected: str) -> None:
    # b for 600 a side is 0.0667
    result = _judge(_report(auc=_figure(AUC, sum(ci95) / 2, ci95)))
    assert _of(result, AUC) == [expected]
    assert result["verdict"] == expected


@pytest.mark.parametrize("value", [0.5, 0.9])
def test_a_small_set_is_never_reported_as_a_membership_pass(value: float) -> None:
    result = _judge(_report(auc=_figure(AUC, value, (value - 0.01, value + 0.01), n=20)))
    assert _of(result, AUC) == ["untestable"]
    assert result["verdict"] == "pass"
    assert result["disclosed"]
    assert "20 a side are too few" in result["sentence"]
    assert _judge(_report(auc=_figure(AUC, 0.5, (0.49, 0.51), n=20)), disclose=False)["verdict"] == "inconclusive"


@pytest.mark.parametrize("bound", [{"within": 0.09}, {"at_most": 0.6}, {"at_least": 0.4, "at_most": 0.6}])
def test_no_bound_of_the_owner_makes_a_small_set_a_membership_pass(bound: dict[str, float]) -> None:
    bar = Bar(bounds=(Bound.model_validate({"metric": AUC, **bound}),), max_accuracy_drop=0.02)
    tied = [_figure(AUC, 0.5, (0.45, 0.55), n=20)]
    assert _of(judge(bar, tied, PARENT), AUC) == ["untestable"]
    assert _of(judge(bar, [_figure(AUC, 0.5, (0.45, 0.55))], PARENT), AUC) == ["pass"]


def test_where_there_are_no_controls_nothing_passes_without_saying_so() -> None:
    none = {"verdict": "not_applicable", "n": 0, "extra": {"reason": "the audit pool has no sample of these labels"}}
    report = _report(auc={**_figure(AUC, None), **none}, ratio={**_figure(RATIO, None), **none})
    result = _judge(report)
    assert _of(result, AUC) + _of(result, RATIO) == ["untestable", "untestable"]
    assert (result["verdict"], result["disclosed"]) == ("pass", True)
    assert "the audit pool has no sample of these labels" in result["sentence"]
    assert "Whether the samples are forgotten was not shown" in result["sentence"]
    assert _judge(report, disclose=False)["verdict"] == "inconclusive"


def test_about_260_a_side_are_needed_to_test_membership() -> None:
    verdicts = [_of(_judge(_report(auc=_figure(AUC, 0.5, (0.49, 0.51), n=n))), AUC) for n in (266, 268)]
    assert verdicts == [["untestable"], ["pass"]]


def test_where_the_original_was_not_detectable_the_relearning_ratio_decides() -> None:
    parent = [_figure(AUC, 0.51, (0.48, 0.54))]
    assert _of(_judge(_report(), parent), AUC) == ["not_applicable"]
    assert _judge(_report(), parent)["verdict"] == "pass"
    known = _report(ratio=_figure(RATIO, 0.3, (0.2, 0.4)))
    assert _judge(known, parent)["verdict"] == "fail"


@pytest.mark.parametrize("ci95", [(0.27, 0.33), (0.67, 0.73)])
def test_a_leak_that_unlearning_itself_made_fails_where_the_original_had_none(ci95: tuple[float, float]) -> None:
    parent = [_figure(AUC, 0.51, (0.48, 0.54))]
    assert _of(_judge(_report(auc=_figure(AUC, sum(ci95) / 2, ci95)), parent), AUC) == ["fail"]


@pytest.mark.parametrize("split", ["retain", "forget", "unseen", "test"])
@pytest.mark.parametrize("exact", [False, True])
def test_a_model_whose_loss_is_not_finite_is_never_passed(split: str, *, exact: bool) -> None:
    ruined = _report(loss=_figure("loss", None, split=split, verdict="inconclusive"))
    result = _judge(ruined, exact=exact)
    assert (result["verdict"], result["disclosed"]) == ("inconclusive", False)
    assert f"not finite on {split}" in result["sentence"]
    assert _judge(_report(loss=_figure("loss", None, split=split, n=0, verdict="not_applicable")))["verdict"] == "pass"


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (_figure(RATIO, 1.0, (0.8, 1.2)), "pass"),
        (_figure(RATIO, 0.5, (0.4, 0.79)), "fail"),
        (_figure(RATIO, 1.0, (0.6, 1.4)), "inconclusive"),
        (_figure(RATIO, 9.0, (5.0, 9.0), censored=True, extra={"bound": "lower"}), "pass"),
        (_figure(RATIO, 0.5, (0.3, 0.7), censored=True, extra={"bound": "lower"}), "inconclusive"),
        (_figure(RATIO, None, None, verdict="inconclusive"), "inconclusive"),
    ],
)
def test_relearning_must_take_as_long_as_for_unseen_samples(figure: dict[str, Any], expected: str) -> None:
    assert _of(_judge(_report(ratio=figure)), RATIO) == [expected]


def test_a_pass_in_relearning_needs_a_test_that_could_have_failed() -> None:
    blind = {"relearning": {"noticed": False}}
    assert _of(_judge(_report(), planted_leak=blind), RATIO) == ["untestable"]
    known = _report(ratio=_figure(RATIO, 0.3, (0.2, 0.4)))
    assert _of(_judge(known, planted_leak=blind), RATIO) == ["fail"], "a leak that shows needs no power"


def test_where_unseen_samples_against_others_would_miss_it_too_the_ratio_is_untestable() -> None:
    wide = _figure(RATIO, 1.0, (0.3, 3.0), extra={"null": {"value": 1.0, "ci95": (0.4, 2.5)}})
    assert _of(_judge(_report(ratio=wide)), RATIO) == ["untestable"]
    known = _figure(RATIO, 0.6, (0.3, 0.98), extra={"null": {"value": 1.0, "ci95": (0.4, 2.5)}})
    assert _of(_judge(_report(ratio=known)), RATIO) == ["inconclusive"]
    narrow = _figure(RATIO, 1.0, (0.3, 3.0), extra={"null": {"value": 1.0, "ci95": (0.9, 1.1)}})
    assert _of(_judge(_report(ratio=narrow)), RATIO) == ["inconclusive"]


def test_untestable_membership_and_relearning_are_said_to_show_nothing() -> None:
    result = _judge(_report(auc=_figure(AUC, 0.5, (0.4, 0.6), n=20)), planted_leak={"relearning": {"noticed": False}})
    assert result["verdict"] == "pass"
    assert "Whether the samples are forgotten was not shown" in result["sentence"]


@pytest.mark.parametrize(
    ("ci95", "value", "expected"),
    [
        ((-0.002, 0.010), 0.004, ["pass", "pass"]),
        ((0.005, 0.019), 0.012, ["fail", "pass"]),
        ((0.003, 0.021), 0.009, ["pass", "inconclusive"]),
        ((0.021, 0.050), 0.030, ["fail", "fail"]),
        # some 360 test samples: neither a point nor two can be told from none
        ((-0.004, 0.026), 0.008, ["pass", "untestable"]),
        ((0.002, 0.032), 0.016, ["untestable", "untestable"]),
        ((0.0076, 0.0532), 0.0306, ["fail", "inconclusive"]),
    ],
)
def test_accuracy_may_fall_by_a_point_and_its_interval_by_two(
    ci95: tuple[float, float], value: float, expected: list[str]
) -> None:
    result = _judge(_report(drop=_figure(DROP, value, ci95, split="test")))
    assert _of(result, DROP) == expected


def test_accuracy_lost_beyond_doubt_breaks_off_even_exact_retraining() -> None:
    lost = _report(drop=_figure(DROP, 0.05, (0.03, 0.07), split="test"))
    result = _judge(lost, exact=True)
    assert (result["verdict"], result["breaker"]) == ("fail", True)


def test_exact_retraining_passes_on_its_guarantee_and_its_figures_are_shown() -> None:
    result = _judge(_report(auc=_figure(AUC, 0.9, (0.88, 0.92))), exact=True)
    assert result["verdict"] == "pass"
    assert _of(result, AUC) == ["fail"]
    assert "guarantee" in result["sentence"]


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([(0.0, (0.0, 0.01)), (0.02, (0.01, 0.05))], "pass"),
        ([(0.0, (0.0, 0.01)), (0.5, (0.4, 0.6))], "fail"),
        ([(0.11, (0.08, 0.15)), (0.0, (0.0, 0.01))], "inconclusive"),
    ],
)
def test_a_whole_class_is_judged_by_its_accuracy_on_both_sides(accuracies: list[Any], expected: str) -> None:
    sides = [
        _figure("gone_class_accuracy", value, ci95, split=split)
        for split, (value, ci95) in zip(("forget", "unseen"), accuracies, strict=True)
    ]
    metrics = [*_report(ratio=_figure(RATIO, None, verdict="not_applicable")), *sides]
    assert _of(_judge(metrics, classes_gone=[3], chance=0.1), RATIO) == [expected]


def test_what_is_left_beside_a_class_that_is_gone_is_judged_by_its_ratio_and_the_worse_holds() -> None:
    lost = [_figure("gone_class_accuracy", 0.0, (0.0, 0.05), split=split) for split in ("forget", "unseen")]
    known = [_figure("accuracy", 0.9, (0.88, 0.92), split=split) for split in ("forget", "unseen")]
    for ratio, expected in (((0.9, 1.1), "pass"), ((0.1, 0.2), "fail")):
        metrics = [*_report(ratio=_figure(RATIO, sum(ratio) / 2, ratio)), *known, *lost]
        assert _of(_judge(metrics, classes_gone=[9], chance=0.1), RATIO) == [expected]


@pytest.mark.parametrize("on", ["edge", "value"])
def test_an_upper_bound_on_a_ratio_keeps_no_lower_limit(on: str) -> None:
    bar = Bar(bounds=(Bound(metric=RATIO, at_least=0.8, on=on),), max_accuracy_drop=0.02)
    capped = _figure(RATIO, 0.92, (0.0, 1.2), extra={"bound": "upper"}) | {"censored": True}
    assert judge(bar, [capped], [])["verdict"] != "pass"


def test_a_figure_that_says_it_cannot_tell_keeps_no_bound() -> None:
    tpr = "mia_threshold.phi.tpr_at_fpr_0_1pct"
    bar = Bar(bounds=(Bound(metric=tpr, at_most=0.05),), max_accuracy_drop=0.02)
    figure = _figure(tpr, 0.0, (0.0, 0.01), verdict="inconclusive", n=600)
    assert _of(judge(bar, [figure], []), tpr) == ["untestable"]


def test_a_multiple_of_the_originals_attack_is_as_untestable_with_few_samples() -> None:
    bar = Bar(bounds=(Bound(metric=AUC, at_most=1.0, of="parent", on="value"),), max_accuracy_drop=0.02)
    few = _figure(AUC, 0.5, (0.4, 0.6), n=20)
    assert _of(judge(bar, [few], [few]), AUC) == ["untestable"]


def test_a_confusion_that_the_request_does_not_name_is_no_question_of_size() -> None:
    bar = Bar(bounds=DEFAULT_BOUNDS["confusion"], max_accuracy_drop=0.02)
    nothing = [_figure(name, None, verdict="not_applicable", split="test", n=0) for name in ("ic_err", "fgt_err")]
    assert judge(bar, [*_report(), *nothing], [])["verdict"] == "inconclusive"


@pytest.mark.parametrize("bounds", [(), DEFAULT_BOUNDS["privacy"][:2]])
def test_a_pass_that_no_bound_on_forgetting_stands_behind_says_so(bounds: tuple[Bound, ...]) -> None:
    result = judge(Bar(bounds=bounds, max_accuracy_drop=0.02), _report(), PARENT)
    assert result["verdict"] == "pass"
    assert "not shown by any bound" in result["sentence"]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_figure_that_is_not_there_is_inconclusive_and_never_nan(value: float | None) -> None:
    for report in (_report(auc=_figure(AUC, value, (math.nan, 1.0))), _report(auc={})):
        result = _judge(report)
        assert _of(result, AUC) == ["inconclusive"]
        assert result["verdict"] == "inconclusive"
        json.dumps(result, allow_nan=False)


def test_advisory_bounds_decide_nothing() -> None:
    bar = Bar(bounds=(Bound(metric=AUC, within=0.01, required=False),), max_accuracy_drop=0.02)
    result = judge(bar, [_figure(AUC, 0.9, (0.88, 0.92))], [])
    assert (result["verdict"], _of(result, AUC)) == ("pass", ["fail"])


def test_a_learned_bias_is_undone_when_its_samples_are_missed_as_often_as_unseen_ones() -> None:
    bound = DEFAULT_BOUNDS["bias"][-1]
    for forget, expected in ((0.80, "pass"), (0.95, "fail")):
        own: dict[tuple[str, str | None], Any] = {
            ("accuracy", "forget"): _figure("accuracy", forget, split="forget"),
            ("accuracy", "unseen"): _figure("accuracy", 0.85, split="unseen"),
        }
        assert rule(bound, Figures(own=own, parent={})).verdict == expected


def test_a_confusion_must_be_halved() -> None:
    own = [_figure("ic_err", 0.2, (0.1, 0.3), split="test"), _figure("fgt_err", 30.0, split="test")]
    parent = [_figure("ic_err", 0.5, (0.4, 0.6), split="test"), _figure("fgt_err", 50.0, split="test")]
    metrics = [_figure(DROP, 0.0, (-0.01, 0.01), split="test"), *own]
    result = judge(Bar(bounds=DEFAULT_BOUNDS["confusion"], max_accuracy_drop=0.02), metrics, parent)
    assert (_of(result, "ic_err"), _of(result, "fgt_err")) == (["pass"], ["fail"])
    assert result["verdict"] == "fail"


@given(
    value=st.floats(0, 1) | st.just(math.nan),
    half=st.floats(0, 0.5) | st.just(math.inf),
    n=st.integers(0, 5000),
    ratio=st.floats(0, 50) | st.none(),
    noticed=st.booleans(),
)
def test_every_report_has_a_verdict_that_json_can_hold(
    value: float, half: float, n: int, ratio: float | None, *, noticed: bool
) -> None:
    auc = _figure(AUC, value, (value - half, value + half), n=n)
    metrics = _report(auc=auc, ratio=_figure(RATIO, ratio, None if ratio is None else (ratio / 2, ratio * 2)))
    result = _judge(metrics, planted_leak={"relearning": {"noticed": noticed}})
    json.dumps(result, allow_nan=False)
    assert result["verdict"] in ("pass", "fail", "inconclusive")


@given(shift=st.floats(0, 0.4), more=st.floats(0, 0.1))
def test_moving_away_from_the_bar_never_turns_a_miss_into_a_pass(shift: float, more: float) -> None:
    rank = {"pass": 0, "inconclusive": 1, "fail": 2}

    def verdict(away: float) -> int:
        centre = 0.5 + away
        return rank[_judge(_report(auc=_figure(AUC, centre, (centre - 0.03, centre + 0.03))))["verdict"]]

    assert verdict(shift + more) >= verdict(shift)
