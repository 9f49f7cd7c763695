"""What is measured, against what, and what each figure does not prove.

The functions stand in workers.evaluation; metrics that come from one computation share a family there.
"""

from dataclasses import dataclass
from typing import Literal

Basis = Literal["none", "original", "unseen controls"]
Direction = Literal["higher", "lower", "target"]


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """Describe one metric. `direction` "target": the nearer to `ideal`, from either side, the better."""

    id: str
    title: str
    formula: str
    source: str
    basis: Basis
    direction: Direction
    ideal: float | None
    kind: Literal["evidence", "smoke_test"]
    does_not_prove: str

    @property
    def family(self) -> str:
        """Name the computation that yields this metric: the id up to its first dot."""
        return self.id.split(".", 1)[0]


_OURS = "defined here"
_THRESHOLD_SOURCE = "Yeom et al., CSF 2018, arXiv:1709.01604; Song & Mittal, USENIX Security 2021, arXiv:2003.10595"
_RELEARNING_SOURCE = "after Tran & Woo 2026, arXiv:2604.09391; the definition is ours"
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


_ALL = [
    MetricSpec(
        id="accuracy",
        title="Accuracy",
        formula="share of samples whose largest logit is the label's",
        source=_OURS,
        basis="none",
        direction="higher",
        ideal=1.0,
        kind="smoke_test",
        does_not_prove="An accuracy equal to that on unseen data does not show that nothing is remembered.",
    ),
    MetricSpec(
        id="loss",
        title="Mean cross-entropy",
        formula="mean over samples of logsumexp(z) - z_y, in nats",
        source=_OURS,
        basis="none",
        direction="lower",
        ideal=0.0,
        kind="smoke_test",
        does_not_prove="A mean hides single samples that are still remembered.",
    ),
    MetricSpec(
        id="utility_drop",
        title="Loss of test accuracy",
        formula="original's accuracy minus unlearned model's on test samples whose label is still in the "
        "retain set; paired interval",
        source=_OURS,
        basis="original",
        direction="lower",
        ideal=0.0,
        kind="evidence",
        does_not_prove="Accuracy on this test set only; subgroups can lose more.",
    ),
    MetricSpec(
        id="class_accuracy_drop",
        title="Largest loss of accuracy of any class",
        formula="max over classes left in the retain set of original's minus unlearned model's test accuracy",
        source=_OURS,
        basis="original",
        direction="lower",
        ideal=0.0,
        kind="smoke_test",
        does_not_prove="A maximum over small classes is noisy.",
    ),
    MetricSpec(
        id="disagreement",
        title="Disagreement with the original",
        formula="share of test samples on which the two models predict different classes",
        source=_OURS,
        basis="original",
        direction="lower",
        ideal=None,
        kind="smoke_test",
        does_not_prove="Nothing about the forget set.",
    ),
    MetricSpec(
        id="weight_distance",
        title="Distance from the original's weights",
        formula="||w_u - w_o|| / ||w_o|| over all parameters, norm-layer buffers apart",
        source=_RELEARNING_SOURCE,
        basis="original",
        direction="higher",
        ideal=None,
        kind="smoke_test",
        does_not_prove="Weights can move far and still remember.",
    ),
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
        source=_OURS,
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
        source=_OURS,
        basis="unseen controls",
        direction="target",
        ideal=0.5,
        kind="smoke_test",
        does_not_prove="Retained samples are members: a value above 0.5 is expected; its rise is the harm.",
    ),
    MetricSpec(
        id="relearning_delay",
        title="Relearning delay",
        formula="first SGD step on the set alone at which its loss <= 1.05 L* + 0.05 nats, L* the original's "
        "loss on the forget set; constant rate, norm statistics frozen; lower median of 3 seeds; "
        "at the cap a lower bound, marked censored",
        source=_RELEARNING_SOURCE,
        basis="original",
        direction="higher",
        ideal=None,
        kind="evidence",
        does_not_prove="A wrecked model relearns slowly too: read it beside utility and the controls' delay.",
    ),
    MetricSpec(
        id="relearning_accuracy_delay",
        title="Relearning delay in accuracy",
        formula="first step at which accuracy on the set >= 95% of the original's on the forget set; "
        "lower median of seeds; at the cap a lower bound, marked censored",
        source=_RELEARNING_SOURCE,
        basis="original",
        direction="higher",
        ideal=None,
        kind="smoke_test",
        does_not_prove="Forgotten samples still classified rightly relearn in 0 steps, known or not.",
    ),
    MetricSpec(
        id="relearning_area",
        title="Area under the relearning curve",
        formula="sum over the steps before the delay, or up to the cap, of the loss above the target, "
        "in nat-steps; mean of seeds",
        source=_RELEARNING_SOURCE,
        basis="original",
        direction="higher",
        ideal=None,
        kind="smoke_test",
        does_not_prove="See relearning_delay.",
    ),
    MetricSpec(
        id="relearning_path_length",
        title="Path walked until relearned",
        formula="sum of ||w_(t+1) - w_t|| until the delay's step, over ||w_o||; mean of seeds",
        source=_RELEARNING_SOURCE,
        basis="original",
        direction="higher",
        ideal=None,
        kind="smoke_test",
        does_not_prove="See relearning_delay.",
    ),
    MetricSpec(
        id="relearning_ratio",
        title="Relearning ratio",
        formula="exp of the mean over seeds of log((T_forget + 1/2) / (T_unseen + 1/2)); interval by "
        "bootstrap over seeds, each with its own controls, and over samples; a bound when one side "
        "hit the cap, inconclusive when both did, not applicable when a whole class is forgotten",
        source=_RELEARNING_SOURCE,
        basis="unseen controls",
        direction="target",
        ideal=1.0,
        kind="evidence",
        does_not_prove="Far above 1 is not better by itself; 1 says forgotten and unseen samples are as hard to learn.",
    ),
]

METRICS: dict[str, MetricSpec] = {spec.id: spec for spec in _ALL}
