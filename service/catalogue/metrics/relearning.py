"""How long it takes until the forgotten is known again."""

from service.catalogue.metrics.spec import RELEARNING_SOURCE, MetricSpec
from service.catalogue.tasks import ANY_TASK

RELEARNING = [
    MetricSpec(
        id="relearning_delay",
        title="Relearning delay",
        formula="first step of SGD (of Adam where SGD is too slow) on the set alone at which its loss <= 1.05 L* + .05 "
        "nats, L* the original's loss on the forget set; constant rate, norm statistics frozen; read at every step up "
        "to 16 and every tenth part further after that; lower median of 3 seeds; at the cap a lower bound, "
        "marked censored; of a generation model SGD alone, until the loss <= 1.02 L* (1.1 L* where whole "
        "classes are forgotten), 2 seeds",
        source=RELEARNING_SOURCE,
        basis="original",
        direction="higher",
        ideal=None,
        kind="evidence",
        does_not_prove="A wrecked model relearns slowly too: read it beside utility and the controls' delay.",
        tasks=ANY_TASK,
    ),
    MetricSpec(
        id="relearning_accuracy_delay",
        title="Relearning delay in accuracy",
        formula="first step at which accuracy on the set >= 95% of the original's on the forget set; "
        "lower median of seeds; at the cap a lower bound, marked censored",
        source=RELEARNING_SOURCE,
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
        source=RELEARNING_SOURCE,
        basis="original",
        direction="higher",
        ideal=None,
        kind="smoke_test",
        does_not_prove="See relearning_delay.",
        tasks=ANY_TASK,
    ),
    MetricSpec(
        id="relearning_path_length",
        title="Path walked until relearned",
        formula="sum of ||w_(t+1) - w_t|| until the delay's step, over ||w_o||; mean of seeds",
        source=RELEARNING_SOURCE,
        basis="original",
        direction="higher",
        ideal=None,
        kind="smoke_test",
        does_not_prove="See relearning_delay.",
        tasks=ANY_TASK,
    ),
    MetricSpec(
        id="relearning_ratio",
        title="Relearning ratio",
        formula="exp of the mean over seeds of log((T_forget + 1/2) / (T_unseen + 1/2)); interval by "
        "bootstrap over seeds, each with its own controls, and over samples; a bound when one side "
        "hit the cap, inconclusive when both did, not applicable when a whole class is forgotten",
        source=RELEARNING_SOURCE,
        basis="unseen controls",
        direction="target",
        ideal=1.0,
        kind="evidence",
        does_not_prove="Far above 1 is not better by itself; 1 says forgotten and unseen samples are as hard to learn.",
        tasks=ANY_TASK,
    ),
    MetricSpec(
        id="relearning_thorough.ratio",
        title="Relearning ratio over rates and optimisers",
        formula="as relearning_ratio, over 3 rates (1/2, 1 and 2 times the calibrated one), 3 seeds, SGD and Adam; "
        "cells in which both sides hit the cap are left out and counted; a seed is drawn with all its cells; a "
        "retrained model's own ratio beside it",
        source=RELEARNING_SOURCE,
        basis="unseen controls",
        direction="target",
        ideal=1.0,
        kind="evidence",
        does_not_prove="Far above 1 is not better by itself; the rates are calibrated on the original model.",
        when="benchmarks",
        tasks=ANY_TASK,
    ),
    MetricSpec(
        id="relearning_thorough.anamnesis",
        title="Anamnesis over rates and optimisers",
        formula="as anamnesis, over the cells of relearning_thorough.ratio",
        source=RELEARNING_SOURCE,
        basis="retrained",
        direction="target",
        ideal=1.0,
        kind="evidence",
        does_not_prove="See anamnesis.",
        when="benchmarks",
        tasks=ANY_TASK,
    ),
    MetricSpec(
        id="relearning_head_delay",
        title="Relearning delay under a fresh head",
        formula="as relearning_delay, from the model with its last linear layer initialised anew by each seed: a delay "
        "far below it says that the head still knows; for whole classes, which have no unseen yardstick",
        source=RELEARNING_SOURCE,
        basis="none",
        direction="higher",
        ideal=None,
        kind="smoke_test",
        does_not_prove="Features that tell the class apart without having seen it make it fast too.",
        when="benchmarks",
    ),
]
