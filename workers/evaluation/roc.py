"""What an attack's scores tell of members and controls: AUC, and true positives at few false positives.

Scores are signed so that larger means more like a member. Everything is exact, by sorting.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import binom

from workers.evaluation.intervals import Floats, Interval, auc_delong, wilson
from workers.evaluation.result import MetricResult, Verdict

FPR_CONTROLS = {"1pct": (0.01, 1_000), "0_1pct": (0.001, 10_000)}
NOT_A_NUMBER = "a score is not a number: the model's outputs are broken"


def tell_apart(
    attack: str, members: Floats, controls: Floats, *, extra: Mapping[str, Any] | None = None
) -> list[MetricResult]:
    """Return the attack's AUC and its true positives at 1 % and 0.1 % false positives; `extra` goes into each."""
    return [
        auc_result(f"{attack}.auc", members, controls, extra=extra),
        *(tpr_at_fpr(members, controls, label, attack=attack, extra=extra) for label in FPR_CONTROLS),
    ]


def untold(attack: str, verdict: Verdict, reason: str) -> list[MetricResult]:
    """Return what `tell_apart` does, without figures."""
    names = [f"{attack}.auc", *(f"{attack}.tpr_at_fpr_{label}" for label in FPR_CONTROLS)]
    return [no_figure(name, verdict, reason) for name in names]


def no_figure(name: str, verdict: Verdict, reason: str, *, n: int = 0) -> MetricResult:
    """Return a result without a value that says why there is none."""
    return MetricResult(name=name, value=None, n=n, verdict=verdict, extra={"reason": reason})


def auc_result(name: str, members: Floats, controls: Floats, *, extra: Mapping[str, Any] | None = None) -> MetricResult:
    """Return the AUC under the metric name given: none when a side is empty or a score is not a number."""
    if not len(members) or not len(controls):
        return no_figure(name, "not_applicable", _empty(members, controls))
    if np.isnan(members).any() or np.isnan(controls).any():
        return no_figure(name, "inconclusive", NOT_A_NUMBER, n=len(members))
    auc, interval = auc_delong(members, controls)
    return MetricResult(name=name, value=auc, ci95=interval, n=len(members), extra=extra)


def tpr_at_fpr(
    members: Floats,
    controls: Floats,
    label: str,
    *,
    attack: str = "mia_threshold.phi",
    extra: Mapping[str, Any] | None = None,
) -> MetricResult:
    """Return the share of members above the threshold that at most the given share of controls passes."""
    rate, needed = FPR_CONTROLS[label]
    name = f"{attack}.tpr_at_fpr_{label}"
    if not len(members) or not len(controls):
        return no_figure(name, "not_applicable", _empty(members, controls))
    if np.isnan(members).any() or np.isnan(controls).any():
        return no_figure(name, "inconclusive", NOT_A_NUMBER, n=len(members))
    allowed = int(np.floor(rate * len(controls) + 1e-9))
    threshold = np.sort(controls)[len(controls) - allowed - 1]
    hits = int(np.sum(members > threshold))
    enough = len(controls) >= needed
    reason = {} if enough else {"reason": f"needs at least {needed:,} controls; there are {len(controls):,}"}
    return MetricResult(
        name=name,
        value=hits / len(members),
        ci95=tpr_interval(members, controls, rate),
        n=len(members),
        verdict="measured" if enough else "inconclusive",
        extra={**(extra or {}), **reason} or None,
    )


def tpr_interval(members: Floats, controls: Floats, rate: float) -> Interval:
    """Return the interval of the true positive rate at a false positive rate; neither side may be empty.

    Wilson's interval, which takes the threshold as given, covers half the time: the threshold is itself an
    estimate, from the few controls beyond it. Its 95 % range, by the binomial count of controls above the
    true quantile, is joined to Wilson's by the square-and-add rule (Zou & Donner 2008). Covers 95 to 97 %
    where the rate is well above `rate`, up to 98 % where it is a few counts.
    """
    n, m = len(members), len(controls)
    fewest, most = _count_range(m, rate)
    allowed = int(np.floor(rate * m + 1e-9))
    descending = -np.sort(-controls)[: max(allowed, int(np.ceil(most))) + 1]
    tpr = (n - np.searchsorted(np.sort(members), descending, side="right")) / n
    value = float(tpr[allowed])
    low, high = wilson(value * n, n)
    # a threshold with r controls above it lies between the r-th and the next: half a rank back
    at_fewest, at_most = np.interp(np.array([fewest, most]) - 0.5, np.arange(-1, len(tpr)), np.append(0.0, tpr))
    below = float(np.hypot(value - low, max(0.0, value - at_fewest)))
    above = float(np.hypot(high - value, max(0.0, at_most - value)))
    return max(0.0, value - below), min(1.0, value + above)


def _count_range(m: int, rate: float) -> tuple[float, float]:
    """Return the central 95 % of Binomial(m, rate), between whole numbers by the mid-p distribution."""
    counts = np.arange(min(m, int(m * rate + 10 * np.sqrt(m * rate) + 10)) + 1)
    mid_p = binom.cdf(counts, m, rate) - binom.pmf(counts, m, rate) / 2
    low, high = np.interp([0.025, 0.975], mid_p, counts)
    return float(low), float(high)


def _empty(members: Floats, controls: Floats) -> str:
    return f"needs at least 1 sample on each side; there are {len(members)} and {len(controls)}"
