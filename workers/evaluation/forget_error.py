"""Error on the forget set beside that on unseen controls: what removing a learned bias asks for.

Kurmanji et al., NeurIPS 2023, arXiv:2302.09880: the forget error should be as high as possible.
"""

from torch import Tensor

from workers.evaluation.intervals import wilson
from workers.evaluation.paired_intervals import rate_difference
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import NOT_A_NUMBER, no_figure

NAMES = ("forget_error.rate", "forget_error.excess")


def forget_error(forget: tuple[Tensor, Tensor], unseen: tuple[Tensor, Tensor]) -> list[MetricResult]:
    """Return the forget set's error, and how far it is above the unseen controls'; sides are (logits, labels)."""
    n, m = len(forget[1]), len(unseen[1])
    if not n:
        return [no_figure(name, "not_applicable", "there is no forget sample") for name in NAMES]
    if not all(bool(logits.isfinite().all()) for logits, _ in (forget, unseen)):
        return [no_figure(name, "inconclusive", NOT_A_NUMBER, n=n) for name in NAMES]
    wrong, theirs = (int((logits.argmax(1) != labels).sum()) for logits, labels in (forget, unseen))
    rate = MetricResult(name=NAMES[0], split="forget", value=wrong / n, ci95=wilson(wrong, n), n=n)
    if not m:
        return [rate, no_figure(NAMES[1], "not_applicable", "no unseen control has a label of the forget set")]
    excess = rate_difference(wrong, n, theirs, m)
    extra = {"forget_error": wrong / n, "unseen_error": theirs / m}
    return [rate, MetricResult(name=NAMES[1], value=excess.value, ci95=excess.ci95, n=min(n, m), extra=extra)]
