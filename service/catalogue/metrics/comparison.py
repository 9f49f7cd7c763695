"""How near the unlearned model is to one retrained without the forget set, and what stands in where there is none."""

from service.catalogue.metrics.spec import OURS, MetricSpec
from service.catalogue.tasks import ANY_TASK

_ONE_RUN = "Retrained models differ among themselves; one of them is one draw. "
_ATTACK = "Another rate, another seed or more steps may bring more back."
_GAPS = "retain, forget and test"

COMPARISON = [
    MetricSpec(
        id="avg_gap",
        title="Average gap to the retrained model",
        formula=f"mean over {_GAPS} of |accuracy of the unlearned model - accuracy of the retrained|",
        source="Fan et al., ICLR 2024, arXiv:2310.12508",
        basis="retrained",
        direction="lower",
        ideal=0.0,
        kind="smoke_test",
        does_not_prove=_ONE_RUN + "Equal accuracies do not make equal models.",
        when="retrained",
    ),
    MetricSpec(
        id="avg_gap_with_mia",
        title="Average gap to the retrained model, an attack included",
        formula="as avg_gap, with |difference of the AUC of mia_threshold on phi| as a fourth gap",
        source="Fan et al., ICLR 2024, arXiv:2310.12508; the attack is another",
        basis="retrained",
        direction="lower",
        ideal=0.0,
        kind="smoke_test",
        does_not_prove=_ONE_RUN + "A mean hides one large gap among small ones.",
        when="retrained",
    ),
    MetricSpec(
        id="tow",
        title="Tug of war",
        formula="product over forget, retain and test of 1 - |accuracy of the unlearned model - of the retrained|",
        source="Zhao et al., NeurIPS 2024, arXiv:2406.01257",
        basis="retrained",
        direction="higher",
        ideal=1.0,
        kind="smoke_test",
        does_not_prove=_ONE_RUN + "Accuracies alone are compared.",
        when="retrained",
    ),
    MetricSpec(
        id="js_divergence",
        title="Divergence of predictions from the retrained model's",
        formula="mean over forget samples of KL(p || m) / 2 + KL(q || m) / 2, m = (p + q) / 2, p and q the two models' "
        "predicted distributions; nats, at most ln 2",
        source="Lin, IEEE Transactions on Information Theory 1991",
        basis="retrained",
        direction="lower",
        ideal=0.0,
        kind="evidence",
        does_not_prove=_ONE_RUN + "Two retrained models do not read 0 either.",
        when="retrained",
    ),
    MetricSpec(
        id="prediction_agreement",
        title="Agreement of predictions with the retrained model's",
        formula="share of forget samples for which both models predict one class",
        source=OURS,
        basis="retrained",
        direction="higher",
        ideal=1.0,
        kind="smoke_test",
        does_not_prove=_ONE_RUN + "Equal classes can be predicted with unequal confidence.",
        when="retrained",
    ),
    MetricSpec(
        id="klom",
        title="KL divergence of margins, less its null",
        formula="mean over samples of KL(retrained || unlearned) of phi over many runs, 20 equal bins over both sides' "
        "range, shares floored at 1e-5; minus the same of runs dealt anew to the two sides, 200 times",
        source="Georgiev et al. 2024, arXiv:2410.23232; the null is ours",
        basis="retrained",
        direction="lower",
        ideal=0.0,
        kind="evidence",
        does_not_prove="Margins are compared one sample at a time; what several tell together is not seen.",
        when="benchmarks",
    ),
    MetricSpec(
        id="rf_jsd",
        title="Divergence from the original's view of unseen samples",
        formula="mean over classes of the forget set of the Jensen-Shannon divergence between the mean predicted "
        "distribution of the unlearned model on D_f and that of the original on unseen samples of the class; nats",
        source="after Spartalis et al., CVPR 2025, arXiv:2503.18314",
        basis="original",
        direction="lower",
        ideal=0.0,
        kind="smoke_test",
        does_not_prove="Means of a class hide single samples that are still remembered.",
    ),
    MetricSpec(
        id="retain_harm",
        title="Rise of the membership attack on retained samples",
        formula="AUC of mia_threshold on phi (of a generation model on the loss) on retained samples against unseen "
        "controls, unlearned model minus original; interval of the paired difference",
        source="interval: DeLong et al., Biometrics 1988",
        basis="original",
        direction="lower",
        ideal=0.0,
        kind="evidence",
        does_not_prove="A mean over retained samples hides the few who may be exposed.",
        tasks=ANY_TASK,
    ),
    MetricSpec(
        id="anamnesis",
        title="Anamnesis: relearning delay beside a retrained model's",
        formula="exp of the mean over seeds of log((T_unlearned + 1/2) / (T_retrained + 1/2)), T the delay "
        "on the forget set; bootstrap over seeds and samples, both models read on the same ones; a bound when one "
        "model hit the cap, inconclusive when both did",
        source="after Chundawat et al. 2023, arXiv:2201.05629, in the delay defined here",
        basis="retrained",
        direction="target",
        ideal=1.0,
        kind="evidence",
        does_not_prove=_ONE_RUN + "Far above 1 is not better: a wrecked model relearns slowly too.",
        when="retrained",
        tasks=ANY_TASK,
    ),
    MetricSpec(
        id="retain_side_delay",
        title="Steps on the retain set until the forget set is known again",
        formula="first reading, one in 10 of 200 steps of SGD on the retain set alone, at which accuracy on the forget "
        "set >= 95% of the original's; constant rate, norm statistics frozen; where there is none the last reading, "
        "a lower bound marked censored",
        source=OURS,
        basis="original",
        direction="higher",
        ideal=None,
        kind="smoke_test",
        does_not_prove="Forgotten samples still classified rightly take 0 steps, known or not. " + _ATTACK,
        when="benchmarks",
    ),
    MetricSpec(
        id="retain_side_attack.rise",
        title="Forget accuracy regained by training on the retain set",
        formula="accuracy on the forget set after at most 200 steps of SGD on the retain set alone, minus that before; "
        "interval by Agresti & Min",
        source=OURS,
        basis="none",
        direction="target",
        ideal=0.0,
        kind="evidence",
        does_not_prove="A model not yet trained to the end rises on samples it never saw, too. " + _ATTACK,
        when="benchmarks",
    ),
    MetricSpec(
        id="retain_side_attack.excess",
        title="Forget accuracy above unseen controls after training on the retain set",
        formula="highest accuracy on the forget set at any reading while a copy trains on the retain set alone, minus "
        "the unseen controls' own highest; interval by Newcombe; not applicable when a whole class is forgotten",
        source=OURS,
        basis="unseen controls",
        direction="target",
        ideal=0.0,
        kind="evidence",
        does_not_prove=_ATTACK,
        when="benchmarks",
    ),
]
