"""Which method comes next, given what was asked for, what was tried and how much time is left. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from service.catalogue.bounds import WIDEST_BAND, band_by_size
from service.catalogue.methods import AUTO, METHODS, Available
from service.catalogue.policy import surest_within_seconds
from service.catalogue.tasks import Task

SmallSets = Literal["exact", "gather", "disclose"]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the choice depends on. Times in seconds; `retraining_seconds` None when nobody knows it.

    `has_recipe` False means that the model cannot be trained again, `has_retain` False that its retained training
    samples may not be read, `no_other_class` why none of them can be taught another class, `has_selection` False that
    no sample is held out to choose by, `sharded` True that its recipe trains it in shards; `prepared` names what was
    prepared of the parent; the ladder's methods run by `options`. `forget_count` is the number of samples that an
    attack could compare, each with an unseen one of its label; `tests_membership` False means that no required bound
    is on an attack.
    """

    requested: str
    ladder: tuple[str, ...]
    purpose: str = "privacy"
    task: Task = Task.CLASSIFICATION
    no_other_class: str | None = None
    small_sets: SmallSets | None = None
    tried: tuple[str, ...] = ()
    forget_count: int = 0
    tests_membership: bool = True
    retraining_seconds: float | None = None
    retraining_budget_seconds: float = 600.0
    seconds_left: float | None = None
    surest_within_seconds: float = 0.0
    has_recipe: bool = True
    has_retain: bool = True
    has_selection: bool = True
    prepared: frozenset[str] = frozenset()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sharded: bool = False
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """The method to try, or none; why; and the methods passed over with the reason."""

    method: str | None
    reason: str
    passed_over: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What becomes of an attempt: `why` when it is held, `rung` when the job climbs."""

    action: Literal["publish", "climb", "hold"]
    rung: Rung | None = None
    why: str | None = None


def next_rung(situation: Situation) -> Rung:
    """Return the next method not tried yet: the one asked for first, then the ladder's that are surer.

    Near the due date the surest comes at once. A method that cannot work on the model is passed over.
    """
    passed_over = {name: why for name in (situation.requested, *order(situation)) if (why := _unfit(name, situation))}
    steps = [name for name in _above(situation) if name not in passed_over]
    if not steps:
        return Rung(method=None, reason="every method of the ladder was tried", passed_over=passed_over)
    if _short_of_time(situation, steps) and len(steps) > 1:
        return Rung(method=surest(steps), reason="the due date is near: the surest method", passed_over=passed_over)
    untested = situation.tests_membership and is_small(situation) and small_set_rule(situation) == "exact"
    exact = next((name for name in steps if is_exact(name)), None)
    # a method asked for has its try; after it only what needs no test can pass
    if untested and exact is not None and (situation.tried or situation.requested == AUTO):
        reason = "too few samples to test membership, and an exact method needs no test"
        return Rung(method=exact, reason=reason, passed_over=passed_over)
    if situation.tried:
        return Rung(method=steps[0], reason="the method before did not pass the gate", passed_over=passed_over)
    return Rung(method=steps[0], reason="first of the ladder" if situation.requested == AUTO else "asked for",
                passed_over=passed_over)  # fmt: skip


def after(situation: Situation, gate: Mapping[str, object]) -> Step:
    """Return what becomes of a model that was judged: it is published, held for a person, or the next method tried."""
    if gate.get("verdict") in ("pass", "not_evaluated"):
        return Step(action="publish")
    if gate.get("breaker"):
        return Step(action="hold", why="utility_lost")
    rung = next_rung(situation)
    if rung.method is None:
        return Step(action="hold", why="gate_failed" if gate.get("verdict") == "fail" else "gate_inconclusive")
    return Step(action="climb", rung=rung)


def order(situation: Situation) -> tuple[str, ...]:
    """Return the methods in the order they are tried: after a method asked for come those above it."""
    ladder = situation.ladder
    if situation.requested == AUTO:
        return ladder
    above = ladder[ladder.index(situation.requested) + 1 :] if situation.requested in ladder else ladder
    if is_exact(situation.requested):
        above = tuple(name for name in above if is_exact(name))
    return (situation.requested, *above)


def _above(situation: Situation) -> list[str]:
    """Return the methods not tried yet that come after all that were; after an exact one, exact ones alone."""
    steps = list(dict.fromkeys(order(situation)))
    reached = max((steps.index(name) for name in situation.tried if name in steps), default=-1)
    exact_tried = any(is_exact(name) for name in situation.tried)
    return [
        name for name in steps[reached + 1 :] if name not in situation.tried and (is_exact(name) or not exact_tried)
    ]


def surest(methods: Sequence[str]) -> str:
    """Return the last exact method, or else the last."""
    exact = [name for name in methods if is_exact(name)]
    return exact[-1] if exact else methods[-1]


def is_exact(method: str) -> bool:
    """Say whether the method carries a retraining guarantee."""
    return METHODS[method].guarantee == "exact"


def is_small(situation: Situation) -> bool:
    """Say whether membership cannot be tested at this size."""
    return band_by_size(situation.forget_count, situation.forget_count) > WIDEST_BAND


def small_set_rule(situation: Situation) -> SmallSets:
    """Return what to do about a bound that cannot be tested: the policy's word, or the default.

    The default is exact for `auto` when retraining is known to fit the budget, and disclose otherwise.
    """
    if situation.small_sets is not None:
        return situation.small_sets
    seconds = situation.retraining_seconds
    fits = seconds is not None and seconds <= situation.retraining_budget_seconds and _any_exact(situation)
    return "exact" if situation.requested == AUTO and fits else "disclose"


def _any_exact(situation: Situation) -> bool:
    """Say whether an exact method of the ladder can work on the model."""
    return any(is_exact(name) and _unfit(name, situation) is None for name in order(situation))


def _short_of_time(situation: Situation, steps: Sequence[str]) -> bool:
    retraining = situation.retraining_seconds if is_exact(surest(steps)) else None
    margin = surest_within_seconds(situation.surest_within_seconds, retraining)
    return situation.seconds_left is not None and situation.seconds_left <= margin


def _unfit(method: str, situation: Situation) -> str | None:
    if method == AUTO:
        return None
    if method in situation.skipped:
        return situation.skipped[method]
    there = Available(
        task=situation.task,
        no_other_class=situation.no_other_class,
        recipe=situation.has_recipe,
        sharded=situation.sharded,
        retain=situation.has_retain,
        selection=situation.has_selection,
        prepared=situation.prepared,
    )
    if (lack := METHODS[method].lack(there)) is not None:
        return lack
    if method != situation.requested and situation.purpose not in METHODS[method].purposes:
        return f"it does not serve the purpose {situation.purpose}"
    return None
