"""The orders of `auto`: made of methods that serve the purpose, sure at the end, frozen with what was accepted."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue.ladders import LADDERS, Scenario, ladder_of, scenario_of
from service.catalogue.methods import METHODS, Available, Purpose
from service.catalogue.policy import Policy, frozen

ALL = [(purpose, scenario) for purpose in get_args(Purpose) for scenario in get_args(Scenario)]


@pytest.mark.parametrize(("purpose", "scenario"), ALL)
def test_every_order_is_of_methods_that_serve_its_purpose_with_options_they_have_and_says_why(
    purpose: Purpose, scenario: Scenario
) -> None:
    ladder = LADDERS[purpose][scenario]
    assert len(set(ladder.methods)) == len(ladder.methods)
    assert all(purpose in METHODS[name].purposes for name in ladder.methods)
    assert set(ladder.options) <= set(ladder.methods)
    for name in ladder.methods:
        METHODS[name].config.model_validate(METHODS[name].options_for(purpose, ladder.options.get(name, {})))
    assert len(ladder.because) > 40


@pytest.mark.parametrize(("purpose", "scenario"), ALL)
def test_an_order_ends_in_retraining_or_reads_no_retained_sample(purpose: Purpose, scenario: Scenario) -> None:
    methods = LADDERS[purpose][scenario].methods
    if scenario == "retain_gone":
        ready = Available(retain=False, prepared={"importance_loss", "importance_output"})
        assert all(METHODS[name].lack(ready) is None for name in methods)
        assert purpose == "confusion" or any(METHODS[name].lack(Available(retain=False)) is None for name in methods)
    else:
        assert methods[-1] == "retrain"


def test_the_scenario_is_a_class_only_where_nothing_of_any_forgotten_label_stays() -> None:
    assert scenario_of(forgotten={3}, kept={1, 2}, has_retain=True) == "class"
    assert scenario_of(forgotten={3, 4}, kept={1, 2}, has_retain=True) == "class"
    assert scenario_of(forgotten={3, 4}, kept={1, 4}, has_retain=True) == "subset"
    assert scenario_of(forgotten={3}, kept={1}, has_retain=False) == "retain_gone"


@given(scenario=st.sampled_from(get_args(Scenario)), purpose=st.sampled_from(get_args(Purpose)))
def test_an_operators_list_stands_for_every_scenario(scenario: Scenario, purpose: Purpose) -> None:
    own = frozen(Policy(ladder=("scrub", "retrain")).model_dump(mode="json"), purpose)
    assert ladder_of(own, scenario).methods == ("scrub", "retrain")


@given(scenario=st.sampled_from(get_args(Scenario)), purpose=st.sampled_from(get_args(Purpose)))
def test_an_operators_rewind_is_for_privacy_alone(scenario: Scenario, purpose: Purpose) -> None:
    own = frozen(Policy(ladder=("scrub_r", "scrub", "retrain")).model_dump(mode="json"), purpose)
    meant = ("scrub_r", "scrub", "retrain") if purpose == "privacy" else ("scrub", "retrain")
    assert ladder_of(own, scenario).methods == meant


@given(scenario=st.sampled_from(get_args(Scenario)), purpose=st.sampled_from(get_args(Purpose)))
def test_what_was_frozen_holds_whatever_the_table_says_later(scenario: Scenario, purpose: Purpose) -> None:
    policy = frozen(Policy().model_dump(mode="json"), purpose)
    assert ladder_of(policy, scenario).methods == LADDERS[purpose][scenario].methods
    policy["ladders"][scenario]["methods"] = ["finetune"]
    assert ladder_of(policy, scenario).methods == ("finetune",)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_purpose_prefers_is_an_option_of_the_method_and_gives_way_to_what_is_asked_for(name: str) -> None:
    spec = METHODS[name]
    for purpose, preferred in spec.for_purpose.items():
        assert purpose in spec.purposes
        assert set(preferred) <= set(spec.config.model_fields)
        for option, value in preferred.items():
            assert spec.options_for(purpose, {})[option] == value
            assert spec.options_for(purpose, {option: "given"})[option] == "given"


@given(scenario=st.sampled_from(get_args(Scenario)), purpose=st.sampled_from(get_args(Purpose)))
def test_what_was_frozen_before_there_were_ladders_is_held_to_todays(scenario: Scenario, purpose: Purpose) -> None:
    assert ladder_of({"ladder": None, "purpose": purpose}, scenario).methods == LADDERS[purpose][scenario].methods
