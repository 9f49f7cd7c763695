"""Does unlearning expose those who stayed? The change of the membership attack on retained samples."""

import numpy as np

from workers.evaluation.intervals import Floats
from workers.evaluation.paired_intervals import auc_change
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import NOT_A_NUMBER, no_figure

NAME = "retain_harm"
Scores = tuple[Floats, Floats]
"""Scores of retained samples and of their controls, signed so that larger means more like a member."""


def retain_harm(original: Scores, unlearned: Scores) -> MetricResult:
    """Return the AUC of one attack on retained samples under the unlearned model minus that under the original.

    Both models score the same samples in the same order; the interval is that of the paired difference.
    """
    n = min(map(len, original))
    if not n:
        return no_figure(NAME, "not_applicable", "needs at least 1 sample on each side")
    if any(np.isnan(side).any() for side in (*original, *unlearned)):
        return no_figure(NAME, "inconclusive", NOT_A_NUMBER, n=n)
    change = auc_change(before=original, after=unlearned)
    return MetricResult(name=NAME, split="retain", value=change.value, ci95=change.ci95, n=n)
