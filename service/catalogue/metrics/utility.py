"""What accuracy, loss and predictions tell, and what unlearning cost in them."""

from service.catalogue.metrics.spec import OURS, RELEARNING_SOURCE, MetricSpec
from service.catalogue.tasks import ANY_TASK

UTILITY = [
    MetricSpec(
        id="accuracy",
        title="Accuracy",
        formula="share of samples whose largest logit is the label's",
        source=OURS,
        basis="none",
        direction="higher",
        ideal=1.0,
        kind="smoke_test",
        does_not_prove="An accuracy equal to that on unseen data does not show that nothing is remembered.",
    ),
    MetricSpec(
        id="gone_class_accuracy",
        title="Accuracy on classes that are gone",
        formula="share of samples whose largest logit is the label's, of the classes of which nothing is left in the "
        "retain set: the forgotten samples, and all unseen ones of the audit pool",
        source=OURS,
        basis="none",
        direction="lower",
        ideal=None,
        kind="evidence",
        does_not_prove="A class never predicted can still be known inside the network, and be relearned in a step.",
        when="whole classes",
    ),
    MetricSpec(
        id="loss",
        title="Mean loss",
        formula="mean over samples of logsumexp(z) - z_y, in nats; of a generation model, of the squared error of the "
        "predicted noise on the sample's own draws of timesteps and noise",
        source=OURS,
        basis="none",
        direction="lower",
        ideal=0.0,
        kind="smoke_test",
        does_not_prove="A mean hides single samples that are still remembered.",
        tasks=ANY_TASK,
    ),
    MetricSpec(
        id="utility_drop",
        title="Loss of test accuracy",
        formula="original's accuracy minus unlearned model's on test samples whose label is still in the "
        "retain set; paired interval",
        source=OURS,
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
        source=OURS,
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
        source=OURS,
        basis="original",
        direction="lower",
        ideal=None,
        kind="smoke_test",
        does_not_prove="Nothing about the forget set.",
    ),
    MetricSpec(
        id="weight_distance",
        title="Distance from the original's weights",
        formula="||w_u - w_o|| / ||w_o|| over all parameters, norm-layer buffers apart; of a model that makes images "
        "over the moving average of its weights",
        source=RELEARNING_SOURCE,
        basis="original",
        direction="higher",
        ideal=None,
        kind="smoke_test",
        does_not_prove="Weights can move far and still remember.",
        tasks=ANY_TASK,
    ),
]
