"""The shape every metric's result has."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from service.catalogue.metrics import METRICS

Verdict = Literal["measured", "inconclusive", "not_applicable", "lower_bound", "upper_bound"]


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """Hold one measured figure. What it is compared with and where its ideal lies comes from the catalogue.

    `split` is retain, forget, unseen or test where the metric has one. `censored` marks a figure that hit a
    cap: `value` is then a bound. `verdict` says whether the figure means what it should;
    whether it is good enough is the policy's business. `value` is None when there is none.
    """

    name: str
    split: str | None = None
    value: float | None
    ci95: tuple[float, float] | None = None
    n: int
    threshold: float | None = None
    verdict: Verdict = "measured"
    censored: bool | None = None
    seconds: float = 0.0
    extra: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise ValueError(f"unknown metric {self.name!r}; known: {sorted(METRICS)}")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dict; fields that do not apply are left out, figures not finite are null."""
        spec = METRICS[self.name]
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        optional = ("split", "ci95", "threshold", "censored", "extra")
        shown = {key: _json_safe(value) for key, value in own.items() if key not in optional or value is not None}
        if self.ci95 is not None and not all(map(math.isfinite, self.ci95)):
            del shown["ci95"]
        if shown["value"] is None and self.verdict == "measured":
            shown["verdict"] = "inconclusive"
        direction = "lower" if self.split in spec.lower_on else spec.direction
        return {**shown, "direction": direction, "ideal": spec.ideal, "basis": spec.basis}


def _json_safe(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_safe(item) for item in value]
    return value
