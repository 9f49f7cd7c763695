"""Bounds on metrics: what a policy may demand of an unlearned model before it is published. Pure."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.catalogue.methods import Purpose
from service.catalogue.metrics import METRICS
from service.catalogue.metrics.ranges import has_interval, range_of, splits_of
from service.catalogue.tasks import Task

PHI_AUC, RATIO, DROP = "mia_threshold.phi.auc", "relearning_ratio", "utility_drop"
LOSS_AUC, DRAWN, DRAWN_DROP = "mia_threshold.loss.auc", "generation_accuracy", "generation_drop"
DROPS = {DROP: "test", DRAWN_DROP: "retain"}
"""What a lost use is told by, with its split: of a classifier, and of a model that draws."""
GATED_AUCS = (PHI_AUC, LOSS_AUC)
"""The attacks that a band by size is for: on phi, and on the loss of a generation model."""
FLOOR = "mia_threshold.phi.floor"
NEVER_AT_HAND = {
    "benchmarks": "only benchmarks measure this metric",
    "inception weights": "a report has this metric only where the operator provides weights of Inception; "
    "frechet_distance needs none",
    "retrained": "a report has this metric only where the service holds a model retrained without the same samples",
}
WIDEST_BAND = 0.10
"""A membership bound wider than this shows nothing: it is untestable at that size."""


class Bound(BaseModel):
    """One demand on one metric. Limits are in the metric's own unit: shares for accuracies and AUCs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = Field(description="Id of a metric; GET /v1/metrics lists them.")
    split: Literal["retain", "forget", "unseen", "test"] | None = Field(None, description="For metrics that have one.")
    at_least: float | None = Field(None, allow_inf_nan=False, description="The lower limit.")
    at_most: float | None = Field(None, allow_inf_nan=False, description="The upper limit.")
    within: float | Literal["by_size"] | None = Field(
        None,
        description="Half-width of a band around the metric's ideal, in which the whole interval must lie. by_size: "
        "max(0.05, 4 sqrt((n + m + 1) / (12 n m))) for n and m samples, untestable above 0.10.",
    )
    of: Literal["parent", "unseen"] | None = Field(
        None,
        description="Limits are multiples of this figure: the original's, or the same metric's on unseen controls.",
    )
    on: Literal["edge", "value"] = Field(
        "edge", description="edge: the interval's nearer edge must keep the limit. value: the figure itself."
    )
    required: bool = Field(default=True, description="False: reported only, decides nothing.")

    @model_validator(mode="after")
    def can_be_kept_and_missed(self) -> "Bound":
        """Refuse an unknown metric, and limits that every figure or none would keep."""
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric {self.metric!r}; GET /v1/metrics lists them")
        faults = [*self._shape_faults(), *self._split_faults()]
        faults += self._limit_faults() if self.of is None else self._multiple_faults()
        if faults:
            raise ValueError(f"the bound on {self.metric}: {'; '.join(faults)}")
        return self

    def _shape_faults(self) -> list[str]:
        faults = []
        needed = NEVER_AT_HAND.get(METRICS[self.metric].when)
        if self.required and needed:
            faults.append(f'no erasure could keep it: {needed}; say "required": false')
        limits = (self.at_least, self.at_most)
        if self.within is None and limits == (None, None):
            faults.append("name at_least, at_most or within")
        if self.within is not None and limits != (None, None):
            faults.append("within stands alone, without at_least and at_most")
        if self.within is not None and METRICS[self.metric].ideal is None:
            faults.append("this metric has no ideal to lie around")
        if self.metric == FLOOR:
            faults.append("it is shown to read the noise by and is never a bound")
        if self.within == "by_size" and self.metric not in GATED_AUCS:
            faults.append(f"by_size is for {' and '.join(GATED_AUCS)} alone")
        if self.within is not None and self.of is not None:
            faults.append("within cannot be a multiple")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            faults.append("at_least is above at_most")
        if self.on == "edge" and not has_interval(self.metric):
            faults.append('this metric has no interval; say "on": "value"')
        return faults

    def _split_faults(self) -> list[str]:
        splits = splits_of(self.metric)
        if splits is None or self.split in splits or (self.split is None and len(splits) < 2):
            return []
        if self.split is None:
            return [f"name its split: {', '.join(splits)}"]
        return [f"it has no split {self.split}; it has {', '.join(splits) or 'none'}"]

    def _multiple_faults(self) -> list[str]:
        faults = []
        if range_of(self.metric)[0] < 0:
            faults.append("a multiple means nothing where figures can be negative; leave `of` out")
        if self.of == "unseen" and ("unseen" not in (splits_of(self.metric) or ()) or self.split == "unseen"):
            faults.append("it has no figure on unseen controls to be compared with")
        if self.at_least is not None and self.at_least <= 0:
            faults.append(f"at_least {self.at_least:g} times a figure always holds")
        if self.at_most is not None and self.at_most < 0:
            faults.append(f"at_most {self.at_most:g} times a figure never holds")
        return faults

    def _limit_faults(self) -> list[str]:
        low, high = range_of(self.metric)
        faults = []
        # an interval has some width: its far edge never lies on the end of the range
        if self.on == "edge" and (self.at_least == high or self.at_most == low):
            faults.append(f'no interval lies on the end of [{low:g}, {high:g}] alone; say "on": "value"')
        if self.at_least is not None and not low < self.at_least <= high:
            faults.append(f"at_least {self.at_least:g} would always or never hold; values lie in [{low:g}, {high:g}]")
        if self.at_most is not None and not low <= self.at_most < high:
            faults.append(f"at_most {self.at_most:g} would always or never hold; values lie in [{low:g}, {high:g}]")
        ideal = METRICS[self.metric].ideal
        if isinstance(self.within, float) and ideal is not None:
            widest = min(ideal - low, high - ideal) or max(ideal - low, high - ideal)
            if is_attack(self.metric) and self.within > WIDEST_BAND:
                faults.append(f"within {self.within:g} could hold a leak; name at most {WIDEST_BAND:g} or by_size")
            elif not 0 < self.within < widest:
                faults.append(f"within {self.within:g} would always or never hold; name one in (0, {widest:g})")
        return faults


_UTILITY = (
    Bound(metric=DROP, split="test", at_most=0.01, on="value"),
    Bound(metric=DROP, split="test", at_most=0.02),
)
DEFAULT_BOUNDS: dict[Purpose, tuple[Bound, ...]] = {
    "privacy": (
        *_UTILITY,
        Bound(metric=PHI_AUC, within="by_size"),
        Bound(metric=RATIO, at_least=0.8),
        Bound(metric="retain_harm", at_most=0.05, required=False),
    ),
    # A learned bias is undone when the samples that carried it are got wrong as often as ones never seen.
    "bias": (*_UTILITY, Bound(metric="accuracy", split="forget", at_most=1.0, of="unseen", on="value")),
    "confusion": (
        *_UTILITY,
        Bound(metric="ic_err", at_most=0.5, of="parent", on="value"),
        Bound(metric="fgt_err", at_most=0.5, of="parent", on="value"),
    ),
}
"""What holds where the policy of a classification model names no bounds for the purpose."""
_DRAWN_UTILITY = (
    Bound(metric=DRAWN_DROP, split="retain", at_most=0.02, on="value"),
    Bound(metric=DRAWN_DROP, split="retain", at_most=0.05),
    Bound(metric="frechet_distance", split="retain", at_most=1.5, of="parent", on="value"),
    Bound(metric="loss_rise", split="test", at_most=0.1, on="value"),
)
GENERATION_BOUNDS: dict[Purpose, tuple[Bound, ...]] = {
    "privacy": (
        *_DRAWN_UTILITY,
        Bound(metric=DRAWN, split="forget", at_most=0.05, on="value"),
        Bound(metric=LOSS_AUC, within="by_size"),
        Bound(metric=RATIO, at_least=0.8),
        Bound(metric="retain_harm", at_most=0.05, required=False),
    ),
    # purposes without meaning for such a model (service.catalogue.purposes): no request for them is accepted
    "bias": (),
    "confusion": (),
}
"""The same of a generation model."""


def default_bounds(task: Task, purpose: Purpose) -> tuple[Bound, ...]:
    """Return what holds where a model's policy names no bounds for the purpose."""
    return (GENERATION_BOUNDS if task == Task.GENERATION else DEFAULT_BOUNDS)[purpose]


def is_attack(metric: str) -> bool:
    """Say whether the metric is an attack on membership, which needs as many samples as its band does."""
    return metric.startswith(("mia_", "lira_", "rmia", "u_lira"))


def band_by_size(n: int, m: int) -> float:
    """Return the half-width b of the band for an AUC of n against m samples; infinite when a side is empty.

    SE0 is the standard error of an AUC of one half (Mann & Whitney 1947).
    """
    if not n or not m:
        return math.inf
    return max(0.05, 4 * math.sqrt((n + m + 1) / (12 * n * m)))
