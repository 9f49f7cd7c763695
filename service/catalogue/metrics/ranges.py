"""What values each metric can take, and whether it comes with an interval: bounds are checked against both."""

import math

SHARE, DIFFERENCE, POSITIVE = (0.0, 1.0), (-1.0, 1.0), (0.0, math.inf)
NATS_OF_TWO = (0.0, math.log(2))
"""Of a Jensen-Shannon divergence, which is at most ln 2."""

RELEARNING_CAP = 200
"""Steps after which relearning ends: no delay is longer."""

RANGES: dict[str, tuple[float, float]] = {
    "accuracy": SHARE,
    "gone_class_accuracy": SHARE,
    "loss": POSITIVE,
    "utility_drop": DIFFERENCE,
    "class_accuracy_drop": DIFFERENCE,
    "disagreement": SHARE,
    "weight_distance": POSITIVE,
    "ic_err": SHARE,
    "fgt_err": POSITIVE,
    "forget_error": DIFFERENCE,
    "mia_threshold": SHARE,
    "mia_loss_lr": SHARE,
    "mia_entropy_lr": SHARE,
    "mia_svc": SHARE,
    "lira_offline": SHARE,
    "lira_online": SHARE,
    "rmia": SHARE,
    "u_lira": SHARE,
    "relearning_delay": (0.0, RELEARNING_CAP),
    "relearning_accuracy_delay": (0.0, RELEARNING_CAP),
    "relearning_area": POSITIVE,
    "relearning_path_length": POSITIVE,
    "relearning_ratio": POSITIVE,
    "avg_gap": SHARE,
    "avg_gap_with_mia": SHARE,
    "tow": SHARE,
    "js_divergence": NATS_OF_TWO,
    "prediction_agreement": SHARE,
    "klom": (-math.inf, math.inf),
    "rf_jsd": NATS_OF_TWO,
    "retain_harm": DIFFERENCE,
    "anamnesis": POSITIVE,
    "retain_side_delay": POSITIVE,
    "retain_side_attack": DIFFERENCE,
    "relearning_thorough": POSITIVE,
    "relearning_head_delay": POSITIVE,
    "generation_accuracy": SHARE,
    "generation_drop": DIFFERENCE,
    "frechet_distance": POSITIVE,
    "fid": POSITIVE,
    "loss_rise": (-1.0, math.inf),
    "relearning_adam": POSITIVE,
}
"""By family: the part of an id up to its first dot."""

WITHOUT_INTERVAL = frozenset(
    {
        "class_accuracy_drop",
        "fgt_err",
        "weight_distance",
        "relearning_delay",
        "relearning_accuracy_delay",
        "relearning_area",
        "relearning_path_length",
        "relearning_head_delay",
        "retain_side_delay",
        "relearning_adam.delay",
        "fid",
    }
)
"""Families, or single metrics, whose figures have no interval, so that a bound on them is a bound on the value."""


_BY_SPLIT = ("retain", "forget", "unseen", "test")
_RELEARNED = ("forget", "unseen")
SPLITS: dict[str, tuple[str, ...]] = {
    "accuracy": _BY_SPLIT,
    "loss": _BY_SPLIT,
    "gone_class_accuracy": _RELEARNED,
    "utility_drop": ("test",),
    "class_accuracy_drop": ("test",),
    "disagreement": ("test",),
    "ic_err": ("test",),
    "fgt_err": ("test",),
    "forget_error.rate": ("forget",),
    "rf_jsd": ("forget",),
    "retain_harm": ("retain",),
    "relearning_delay": _RELEARNED,
    "relearning_accuracy_delay": _RELEARNED,
    "relearning_area": _RELEARNED,
    "relearning_path_length": _RELEARNED,
    "relearning_head_delay": ("forget",),
    "retain_side_delay": ("forget",),
    "retain_side_attack.rise": ("forget",),
    "retain_side_attack.excess": ("forget",),
    "generation_accuracy": ("retain", "forget"),
    "generation_drop": ("retain",),
    "frechet_distance": ("retain",),
    "fid": ("retain",),
    "loss_rise": ("test",),
    "relearning_adam.delay": _RELEARNED,
}
"""Where a metric's figures are told apart by the set they are read on; a report's others have no split."""

# What a report holds only with a retrained model; nothing is ruled out for it.
_SPLIT_AS_GIVEN = frozenset({"avg_gap", "avg_gap_with_mia", "tow", "js_divergence", "prediction_agreement", "klom"})


def splits_of(metric: str) -> tuple[str, ...] | None:
    """Return the splits a metric is read on, none for one figure alone; None where any may be named."""
    return None if metric in _SPLIT_AS_GIVEN else SPLITS.get(metric, ())


def range_of(metric: str) -> tuple[float, float]:
    """Return the lowest and highest value the metric can take."""
    return RANGES[metric.split(".", 1)[0]]


def has_interval(metric: str) -> bool:
    """Say whether the metric's figures come with a 95 % interval."""
    return WITHOUT_INTERVAL.isdisjoint({metric, metric.split(".", 1)[0]})
