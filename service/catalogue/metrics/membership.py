"""Attacks on membership that need one model alone."""

from service.catalogue.metrics.spec import OURS, MetricSpec
from service.catalogue.tasks import ANY_TASK, CLASSIFICATION_ALONE

_THRESHOLD_SOURCE = "Yeom et al., CSF 2018, arXiv:1709.01604; Song & Mittal, USENIX Security 2021, arXiv:2003.10595"
_ONE_ATTACK = "A stronger attack, one with reference models above all, may still tell members."
_SCORES = {
    "loss": "cross-entropy of the true label; of a generation model the mean squared error of the predicted noise",
    "phi": "log(p_y / (1 - p_y))",
    "entropy": "-sum p log p",
    "modified_entropy": "-(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c)",
}


def _threshold_auc(score: str, formula: str) -> MetricSpec:
    return MetricSpec(
        id=f"mia_threshold.{score}.auc",
        title=f"Membership attack on {score.replace('_', ' ')}, AUC",
        formula="P(score of a forgotten sample looks more trained-on than an unseen control's), "
        f"score = {formula}; ties count half; controls in whole rounds of the forget samples' labels, "
        "as many as the audit pool has",
        source=_THRESHOLD_SOURCE,
        basis="unseen controls",
        direction="target",
        ideal=0.5,
        kind="evidence" if score == "phi" else "smoke_test",
        does_not_prove=_ONE_ATTACK + " Far below 0.5 is a leak too.",
        tasks=ANY_TASK if score == "loss" else CLASSIFICATION_ALONE,
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


_SVC_FEATURES = {
    "confidence": "p_y",
    "entropy": _SCORES["entropy"],
    "modified_entropy": _SCORES["modified_entropy"] + ", of each sample alone",
    "correctness": "1 if the largest logit is the label's, else 0",
}


def _svc(feature: str, formula: str) -> MetricSpec:
    return MetricSpec(
        id=f"mia_svc.{feature}",
        title=f"Forget samples called non-members by their {feature.replace('_', ' ')}",
        formula="share of the forget set that an SVC (RBF kernel, C = 3), fitted to retained against test samples, "
        f"calls non-member; feature = {formula}",
        source="Fan et al., ICLR 2024, arXiv:2310.12508",
        basis="none",
        direction="higher",
        ideal=None,
        kind="smoke_test",
        does_not_prove="1.0 is not the goal: compare with a retrained model's value. A machine that calls everything "
        "non-member reads 1.0 too.",
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
    MetricSpec(
        id="mia_loss_lr",
        title="Membership attack by a logistic regression on the loss, accuracy",
        formula="accuracy of a logistic regression on the loss, clipped to ±100, of forgotten against unseen "
        "samples, as many and of the same classes, over 5 stratified splits; interval by Student's t over the splits",
        source="Kurmanji et al., NeurIPS 2023, arXiv:2302.09880",
        basis="unseen controls",
        direction="target",
        ideal=0.5,
        kind="smoke_test",
        does_not_prove="One cut on the loss, the same for all samples: easy and hard samples hide each other.",
    ),
    MetricSpec(
        id="mia_entropy_lr",
        title="Forget samples called members by their entropy",
        formula="share of the forget set that a logistic regression on -sum p log p, fitted to retained against test "
        "samples with equal weight of both, calls member",
        source="Foster et al., AAAI 2024, arXiv:2308.07707; Cheng et al., arXiv:2402.15109",
        basis="none",
        direction="lower",
        ideal=None,
        kind="smoke_test",
        does_not_prove="0 is not the goal: compare with a retrained model's value. Entropy does not know the label: "
        "a sample confidently wrong counts as member.",
    ),
    *(_svc(feature, formula) for feature, formula in _SVC_FEATURES.items()),
]
