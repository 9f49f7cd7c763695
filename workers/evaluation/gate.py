"""The gate: does a report keep the bounds frozen before the work? Pure functions on JSON-safe figures.

`pass` the bound is kept; `fail` it is missed beyond doubt; `inconclusive` the figure cannot say; `untestable` no
figure could at this size; `not_applicable` the bound has no meaning here. Only what is required decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from service.catalogue.bounds import DROP, DROPS, Bound
from workers.evaluation.bound_rules import Figures, Ruling, finite, rule

Verdict = Literal["pass", "fail", "inconclusive"]
UTILITY_METRICS = (
    *DROPS,
    "class_accuracy_drop",
    "disagreement",
    "weight_distance",
    "retain_harm",
    "frechet_distance",
    "loss_rise",
)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What an unlearned model is held against: the policy as frozen at acceptance.

    `max_accuracy_drop` is a share. `disclose_small` lets bounds that are untestable pass, with a note.
    """

    bounds: tuple[Bound, ...]
    max_accuracy_drop: float
    disclose_small: bool = True


def judge(
    bar: Bar,
    metrics: Sequence[Mapping[str, Any]],
    parent_metrics: Sequence[Mapping[str, Any]],
    *,
    exact: bool = False,
    planted_leak: Mapping[str, Any] | None = None,
    classes_gone: Sequence[int] = (),
    chance: float | None = None,
) -> dict[str, Any]:
    """Return verdict, sentence and the ruling on every bound, JSON-safe.

    `exact`: the method carries a retraining guarantee, on which it passes whatever was measured; a lost utility, or
    a loss that is no finite number, stops it all the same. `classes_gone` and `chance` (1 / classes) are for
    forgotten whole classes.
    """
    figures = Figures(
        own=_by_name(metrics),
        parent=_by_name(parent_metrics),
        relearning_noticed=_noticed(planted_leak),
        classes_gone=tuple(classes_gone),
        chance=chance,
    )
    rulings = [rule(bound, figures) for bound in bar.bounds]
    broken = _breaker(figures, bar.max_accuracy_drop)
    verdict, sentence = _verdict(rulings, bar, exact=exact)
    ruined = _not_finite(metrics)
    if ruined and verdict == "pass":
        verdict, sentence = "inconclusive", ruined
    if broken:
        verdict, sentence = "fail", broken
    untested = [r for r in rulings if r.bound.required and r.verdict == "untestable"]
    return {
        "verdict": verdict,
        "sentence": sentence,
        "bounds": [ruling.to_dict() for ruling in rulings],
        "breaker": bool(broken),
        "disclosed": verdict == "pass" and bool(untested) and not exact,
        "guarantee": "exact" if exact else "approximate",
    }


def _verdict(rulings: Sequence[Ruling], bar: Bar, *, exact: bool) -> tuple[Verdict, str]:
    required = [ruling for ruling in rulings if ruling.bound.required]
    if exact:
        return "pass", "Passed on the method's guarantee: the model was trained without the samples. " + _missed(
            required
        )
    failed = [ruling for ruling in required if ruling.verdict == "fail"]
    if failed:
        return "fail", "Missed: " + " ".join(ruling.sentence for ruling in failed)
    unsure = [ruling for ruling in required if ruling.verdict == "inconclusive"]
    if unsure:
        return "inconclusive", "Undecided: " + " ".join(ruling.sentence for ruling in unsure)
    untested = [ruling for ruling in required if ruling.verdict == "untestable"]
    if untested and not bar.disclose_small:
        return "inconclusive", "Not testable at this size: " + " ".join(ruling.sentence for ruling in untested)
    return "pass", _passed(required, untested)


def _passed(required: Sequence[Ruling], untested: Sequence[Ruling]) -> str:
    kept = [ruling for ruling in required if ruling.verdict == "pass"]
    others = len(required) - len(kept) - len(untested)
    parts = [f"{len(kept)} of {len(required)} required bounds are kept." if required else "No bound was required."]
    parts += [f"{others} {'does' if others == 1 else 'do'} not apply here."] if others else []
    parts += ["Not tested: " + " ".join(ruling.sentence for ruling in untested)] if untested else []
    if not any(shows_forgetting(ruling.bound) for ruling in kept):
        parts.append("Whether the samples are forgotten was not shown by any bound.")
    return " ".join(parts)


def shows_forgetting(bound: Bound) -> bool:
    """Say whether keeping the bound says something of the forget set: the others speak of utility alone."""
    return bound.metric not in UTILITY_METRICS and bound.split not in ("retain", "test", "unseen")


def _missed(required: Sequence[Ruling]) -> str:
    missed = [ruling.bound.metric for ruling in required if ruling.verdict == "fail"]
    return f"The measurements missed: {', '.join(missed)}." if missed else "No measurement contradicts it."


def _breaker(figures: Figures, allowed: float) -> str | None:
    """Return a sentence if use was lost beyond doubt, which no method is allowed to do."""
    for metric, split in DROPS.items():
        drop = figures.own.get((metric, split))
        if drop is None or drop.get("ci95") is None or drop["ci95"][0] <= allowed:
            continue
        what = "Test accuracy" if metric == DROP else "The share of recognised images of retained classes"
        low, high = drop["ci95"]
        return f"{what} fell by {drop['value']:.4f} (95 %: {low:.4f} to {high:.4f}), {allowed:.4f} allowed."
    return None


def _not_finite(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a sentence if the model's mean loss is no number anywhere it was measured: such a model is ruined."""
    measured = [x for x in metrics if x["name"] == "loss" and x["verdict"] != "not_applicable"]
    bad = [str(x.get("split")) for x in measured if not finite(x.get("value"))]
    return f"Undecided: the mean loss is not finite on {', '.join(bad)}." if bad else None


def _noticed(planted_leak: Mapping[str, Any] | None) -> bool | None:
    relearning = (planted_leak or {}).get("relearning")
    return None if relearning is None else bool(relearning.get("noticed"))


def _by_name(metrics: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str | None], Mapping[str, Any]]:
    return {(metric["name"], metric.get("split")): metric for metric in metrics}
