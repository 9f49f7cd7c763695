"""Attacks on membership that need one model alone."""

from service.catalogue.metrics.spec import OURS, MetricSpec

_THRESHOLD_SOURCE = "Yeom et al., CSF 2018, arXiv:1709.01604; Song & Mittal, USENIX Security 2021, arXiv:2003.10595"
_ONE_ATTACK = "A stronger attack, one with reference models above all, may still tell members."
_SCORES = {
    "loss": "cross-entropy of the true label",
    "phi": "log(p_y / (1 - p_y))",
    "entropy": "-sum p log p",
    "modified_entropy": "-(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c)",
}


def _threshold_auc(score: str, formula: str) -> MetricSpec:
    return MetricSpec(
        id=f"mia_threshold.{score}.auc",
        title=f"Membership attack on {score.replace('_', ' ')}, AUC",
        formula="P(score of a forgotten sample looks more trained-on than an unseen control's), "
        f"score = {formula}; ties count half; both sets cut to equal size and the same labels",
        source=_THRESHOLD_SOURCE,
        basis="unseen controls",
        direction="target",
        ideal=0.5,
        kind="evidence" if score == "phi" else "smoke_test",
        does_not_prove=_ONE_ATTACK + " Far below 0.5 is a leak too.",
    )


def _tpr(percent: str, rate: str, controls: str) -> MetricSpec:
    return MetricSpec(
        id=f"mia_threshold.phi.tpr_at_fpr_{percent}",
        title=f"Membership attack on phi, true positives at {rate} false positives",
        formula=f"share of forgotten samples above the threshold that at most {rate} of controls pass; "
        f"inconclusive below {controls} controls",
        source="Carlini et al., S&P 2022, arXiv:2112.03570",
        basis="unseen controls",
        direction="lower",
        ideal=float(rate.rstrip("%")) / 100,
        kind="evidence",
        does_not_prove=_ONE_ATTACK,
    )


MEMBERSHIP = [
    *(_threshold_auc(score, formula) for score, formula in _SCORES.items()),
    MetricSpec(
        id="mia_threshold.phi.balanced_accuracy",
        title="Membership attack on phi, balanced accuracy",
        formula="best threshold found on one half, applied to the other, and the reverse; mean of both rates",
        source=_THRESHOLD_SOURCE,
        basis="unseen controls",
        direction="target",
        ideal=0.5,
        kind="evidence",
        does_not_prove=_ONE_ATTACK,
    ),
    _tpr("1pct", "1%", "1,000"),
    _tpr("0_1pct", "0.1%", "10,000"),
    MetricSpec(
        id="mia_threshold.phi.floor",
        title="Membership attack between two halves of the controls, AUC",
        formula="as mia_threshold.phi.auc, both sides unseen: what chance alone gives at this size",
        source=OURS,
        basis="unseen controls",
        direction="target",
        ideal=0.5,
        kind="smoke_test",
        does_not_prove="A reading aid for the noise; never a bound.",
    ),
    MetricSpec(
        id="mia_threshold.phi.retain_auc",
        title="Membership attack on retained samples, AUC",
        formula="as mia_threshold.phi.auc, retained samples against controls of the same labels; compare "
        "with the original's to see whether unlearning exposes those who stayed",
        source=OURS,
        basis="unseen controls",
        direction="target",
        ideal=0.5,
        kind="smoke_test",
        does_not_prove="Retained samples are members: a value above 0.5 is expected; its rise is the harm.",
    ),
]
