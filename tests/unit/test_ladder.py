"""The ladder: the method asked for, then surer ones; the surest near the due date; none twice."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue.methods import METHODS
from service.catalogue.methods.spec import NEEDS_ANOTHER_CLASS, NEEDS_CLASS_CONDITION
from service.catalogue.tasks import Task
from workers.ladder import Situation, next_rung, order, small_set_rule, surest

LADDER = ("scrub_r", "finetune", "retrain")


def _next(requested: str, *tried: str, **changes: Any) -> str | None:
    facts: dict[str, Any] = {"ladder": LADDER, "forget_count": 600}
    return next_rung(Situation(requested=requested, tried=tried, **{**facts, **changes})).method


def test_the_method_asked_for_comes_first_and_then_those_above_it() -> None:
    assert _next("finetune") == "finetune"
    assert _next("finetune", "finetune") == "retrain"
    assert _next("finetune", "finetune", "retrain") is None


def test_a_method_outside_the_ladder_is_followed_by_all_of_it() -> None:
    assert order(Situation(requested="scrub", ladder=LADDER)) == ("scrub", *LADDER)


def test_auto_climbs_the_ladder() -> None:
    assert [_next("auto", *LADDER[:i]) for i in range(4)] == [*LADDER, None]


@pytest.mark.parametrize("why", [NEEDS_CLASS_CONDITION, NEEDS_ANOTHER_CLASS])
def test_a_method_that_teaches_another_class_is_passed_over_where_there_is_none(why: str) -> None:
    facts: dict[str, Any] = {"task": Task.GENERATION, "ladder": ("random_label", "salun", "ieu"), "forget_count": 600}
    rung = next_rung(Situation(requested="auto", no_other_class=why, **facts))
    assert rung.method == "ieu"
    assert rung.passed_over == {"random_label": why, "salun": why}
    assert next_rung(Situation(requested="auto", **facts)).method == "random_label"
    assert next_rung(Situation(requested="salun", no_other_class=why, **facts)).method == "ieu"


def test_nothing_follows_exact_retraining() -> None:
    assert _next("retrain", "retrain") is None
    assert order(Situation(requested="retrain", ladder=("retrain", "finetune"))) == ("retrain",)


def test_near_the_due_date_the_surest_method_comes_at_once() -> None:
    assert _next("scrub_r", seconds_left=3600, surest_within_seconds=86_400) == "retrain"
    assert _next("scrub_r", seconds_left=1e7, surest_within_seconds=86_400) == "scrub_r"
    assert surest(["scrub_r", "finetune"]) == "finetune"


def test_the_surest_method_comes_while_twice_its_forecast_still_fits() -> None:
    hours = 3600.0
    facts: dict[str, Any] = {"surest_within_seconds": 24 * hours, "retraining_seconds": 30 * hours}
    assert _next("auto", seconds_left=36 * hours, **facts) == "retrain"
    assert _next("auto", seconds_left=60 * hours, **facts) == "retrain"
    assert _next("auto", seconds_left=61 * hours, **facts) == "scrub_r"
    assert _next("auto", seconds_left=25 * hours, **{**facts, "retraining_seconds": 1 * hours}) == "scrub_r"
    assert _next("auto", seconds_left=25 * hours, **{**facts, "retraining_seconds": None}) == "scrub_r"
    without = {**facts, "ladder": ("scrub_r", "finetune")}
    assert _next("auto", seconds_left=36 * hours, **without) == "scrub_r", "nothing is retrained"


def test_a_small_set_is_retrained_only_where_membership_would_be_tested() -> None:
    small: dict[str, Any] = {"forget_count": 20, "retraining_seconds": 60.0}
    assert _next("auto", **small, tests_membership=False) == "scrub_r"
    assert _next("auto", **small, purpose="bias", tests_membership=False) == "finetune"
    assert _next("scrub_r", "scrub_r", **small, small_sets="exact", tests_membership=False) == "finetune"


def test_auto_retrains_for_a_small_set_when_the_forecast_fits_the_budget() -> None:
    assert _next("auto", forget_count=20, retraining_seconds=60.0) == "retrain"
    assert _next("auto", forget_count=20, retraining_seconds=6000.0) == "scrub_r"
    assert _next("auto", forget_count=20) == "scrub_r", "an unknown cost fits no budget"
    assert _next("auto", forget_count=600, retraining_seconds=60.0) == "scrub_r"
    assert _next("scrub_r", forget_count=20, retraining_seconds=60.0) == "scrub_r", "a method asked for is kept"


def test_after_a_method_asked_for_a_small_set_that_must_not_be_disclosed_is_retrained() -> None:
    assert _next("scrub_r", forget_count=20, small_sets="exact") == "scrub_r"
    assert _next("scrub_r", "scrub_r", forget_count=20, small_sets="exact") == "retrain"
    assert _next("scrub_r", "scrub_r", forget_count=20, small_sets="disclose") == "finetune"
    assert _next("scrub_r", "scrub_r", forget_count=600, small_sets="exact") == "finetune"


def test_nothing_less_sure_follows() -> None:
    near: dict[str, Any] = {"ladder": ("scrub_r", "finetune"), "seconds_left": 60.0, "surest_within_seconds": 86_400}
    assert _next("auto", **near) == "finetune"
    assert _next("auto", "finetune", **near) is None, "the rungs below were passed over for want of time"
    assert _next("auto", "retrain", ladder=("retrain", "finetune")) is None


def test_a_rung_for_another_purpose_is_passed_over() -> None:
    rung = next_rung(Situation(requested="auto", ladder=("scrub", "retrain"), forget_count=600))
    assert (rung.method, rung.passed_over) == ("retrain", {"scrub": "it does not serve the purpose privacy"})
    rung = next_rung(Situation(requested="auto", ladder=("scrub_r", "scrub"), purpose="bias", forget_count=600))
    assert (rung.method, rung.passed_over) == ("scrub", {"scrub_r": "it does not serve the purpose bias"})


def test_the_policys_word_on_small_sets_wins() -> None:
    assert small_set_rule(Situation(requested="auto", ladder=LADDER, small_sets="disclose")) == "disclose"
    assert small_set_rule(Situation(requested="scrub", ladder=LADDER, small_sets="exact")) == "exact"
    assert small_set_rule(Situation(requested="scrub", ladder=LADDER)) == "disclose"


def test_a_method_the_model_cannot_have_is_passed_over_with_the_reason() -> None:
    rung = next_rung(Situation(requested="finetune", ladder=LADDER, tried=("finetune",), has_recipe=False))
    assert rung.method is None
    assert rung.passed_over == {"retrain": "the model has no training recipe"}


@given(
    requested=st.sampled_from(["auto", *METHODS]),
    ladder=st.permutations(sorted(METHODS)).flatmap(lambda m: st.integers(1, len(m)).map(lambda n: tuple(m[:n]))),
    left=st.none() | st.floats(0, 1e6),
    recipe=st.booleans(),
)
def test_every_climb_ends_and_no_method_is_tried_twice(
    requested: str, ladder: tuple[str, ...], left: float | None, *, recipe: bool
) -> None:
    tried: tuple[str, ...] = ()
    while (
        method := next_rung(
            Situation(requested=requested, ladder=ladder, tried=tried, seconds_left=left, has_recipe=recipe)
        ).method
    ) is not None:
        assert method not in tried
        tried += (method,)
    assert len(tried) <= len(METHODS)


def test_where_nothing_exact_can_work_a_small_set_is_disclosed_and_not_waited_on() -> None:
    facts: dict[str, Any] = {"ladder": ("mu_mis", "delete"), "retraining_seconds": 5.0, "forget_count": 8}
    assert small_set_rule(Situation(requested="auto", has_retain=False, **facts)) == "disclose"
    assert small_set_rule(Situation(requested="auto", **{**facts, "ladder": ("mu_mis", "retrain")})) == "exact"
    gone = Situation(requested="auto", has_retain=False, **{**facts, "ladder": ("mu_mis", "retrain")})
    assert small_set_rule(gone) == "disclose"


def test_a_model_trained_in_shards_is_trained_again_in_part_and_others_pass_that_over() -> None:
    ladder = ("sisa", "neggrad_plus", "retrain")
    facts: dict[str, Any] = {"requested": "auto", "ladder": ladder, "forget_count": 600}
    assert next_rung(Situation(**facts)).passed_over == {"sisa": "the model's recipe does not train it in shards"}
    kept = frozenset({"shard_checkpoints"})
    assert next_rung(Situation(**facts, sharded=True, prepared=kept)).method == "sisa"
    assert next_rung(Situation(**facts, sharded=True, prepared=kept, tried=("sisa",))).method == "retrain"
    assert next_rung(Situation(**facts, sharded=True)).passed_over == {"sisa": "no checkpoints of its shards were kept"}


def test_without_a_selection_pool_only_methods_that_need_none_are_tried() -> None:
    ladder = ("neggrad_plus", "mu_mis", "retrain")
    rung = next_rung(Situation(requested="auto", ladder=ladder, forget_count=600, has_selection=False))
    assert rung.method == "mu_mis"
