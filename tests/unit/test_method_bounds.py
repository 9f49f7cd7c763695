"""Every numeric option of every method has bounds, and what lies outside them is refused by its name."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from service.catalogue.methods import METHODS

LIMITS = {"minimum": -1, "exclusiveMinimum": 0, "maximum": 1, "exclusiveMaximum": 0}
"""How far outside a bound a whole number is refused."""


def _numeric() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for method, spec in METHODS.items():
        for option, schema in spec.config.model_json_schema()["properties"].items():
            for kind in schema.get("anyOf", [schema]):
                if kind.get("type") in ("number", "integer"):
                    yield method, option, kind


NUMERIC = list(_numeric())


def _faults(method: str, option: str, value: Any) -> list[Any]:
    with pytest.raises(ValidationError) as refusal:
        METHODS[method].config.model_validate({option: value})
    return [fault["loc"][0] for fault in refusal.value.errors()]


@pytest.mark.parametrize(("method", "option", "kind"), NUMERIC, ids=[f"{m}.{o}" for m, o, _ in NUMERIC])
def test_a_number_has_two_bounds_and_none_outside_them_is_taken(method: str, option: str, kind: dict[str, Any]) -> None:
    bounds = {name: kind[name] for name in LIMITS if name in kind}
    assert len(bounds) == 2, "a lower and an upper one"
    for name, bound in bounds.items():
        assert set(_faults(method, option, bound + LIMITS[name])) == {option}


@pytest.mark.parametrize(("method", "option", "kind"), NUMERIC, ids=[f"{m}.{o}" for m, o, _ in NUMERIC])
def test_what_is_no_finite_number_is_refused(method: str, option: str, kind: dict[str, Any]) -> None:
    for value in (math.nan, math.inf, -math.inf, "many", [kind["type"]]):
        assert set(_faults(method, option, value)) == {option}


@pytest.mark.parametrize("method", METHODS)
def test_all_faults_of_the_options_are_told_at_once(method: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        METHODS[method].config.model_validate({"seed": -1, "no_such_option": 1})
    assert {fault["loc"] for fault in refusal.value.errors()} == {("seed",), ("no_such_option",)}
