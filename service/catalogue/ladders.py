"""The order in which `auto` tries methods: by purpose and by what there is to forget, cheap first, sure last.

The figures behind an order are those of the README's tables; the order holds where nobody measured better. A model's
policy may name its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from service.catalogue.methods import Purpose

Scenario = Literal["subset", "class", "retain_gone"]
"""`class`: of no forgotten label does anything stay. `retain_gone`: whatever is forgotten, nothing else may be read."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The methods in their order, the options of those that are not to run by their defaults, and why so."""

    methods: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    because: str = ""


SUREST = "retrain"
LADDERS: Mapping[Purpose, Mapping[Scenario, Ladder]] = {
    "privacy": {
        "subset": Ladder(methods=("sisa", "neggrad_plus", "ieu", SUREST), because=""),
        "class": Ladder(
            methods=("sisa", "eu_k", "ieu", SUREST),
            options={"eu_k": {"epochs": 8}, "ieu": {"tail_epochs": 3}},
            because="",
        ),
        "retain_gone": Ladder(methods=("ssd", "mu_mis", "delete"), because=""),
    },
    "bias": {
        "subset": Ladder(methods=("sisa", "scrub", "neggrad_plus", SUREST), because=""),
        "class": Ladder(methods=("sisa", "neggrad_plus", "scrub", SUREST), because=""),
        "retain_gone": Ladder(methods=("ssd", "mu_mis", "delete"), because=""),
    },
    "confusion": {
        "subset": Ladder(methods=("sisa", "scrub", "neggrad_plus", SUREST), because=""),
        "class": Ladder(methods=("sisa", "neggrad_plus", "scrub", SUREST), because=""),
        "retain_gone": Ladder(methods=("ssd", "delete"), because=""),
    },
}


def written_out(purpose: Purpose) -> dict[str, dict[str, Any]]:
    """Return the purpose's ladders by scenario, JSON-safe."""
    return {
        scenario: {
            "methods": list(ladder.methods),
            "options": {method: dict(options) for method, options in ladder.options.items()},
        }
        for scenario, ladder in LADDERS[purpose].items()
    }


def scenario_of(*, forgotten: set[int], kept: set[int], has_retain: bool) -> Scenario:
    """Return the scenario of these labels."""
    if not has_retain:
        return "retain_gone"
    return "subset" if forgotten & kept else "class"


def ladder_of(policy: Mapping[str, Any], scenario: Scenario) -> Ladder:
    """Return a frozen policy's ladder for a scenario: the operator's own, or the one frozen with the policy."""
    own = policy.get("ladder")
    if own is not None:
        return Ladder(methods=tuple(own), because="the policy's own")
    found = policy["ladders"][scenario]
    return Ladder(methods=tuple(found["methods"]), options=found["options"])
