"""What is measured of a model that makes images of given classes."""

from dataclasses import replace

from service.catalogue.metrics.comparison import COMPARISON
from service.catalogue.metrics.relearning import RELEARNING
from service.catalogue.metrics.spec import OURS, MetricSpec
from service.catalogue.tasks import GENERATION_ALONE

_SEEN = (
    "of a small classifier trained on real images of the selection and the population pool, which no version and no "
)
_SEEN += "forget set has; its own accuracy on the audit pool stands in the report"

_SGD = {spec.id: spec for spec in [*RELEARNING, *COMPARISON]}


def _under_adam(of: str, name: str) -> MetricSpec:
    """Return what is said of a figure of relearning by SGD, for the same by Adam."""
    spec = _SGD[of]
    formula = f"as {of}, by Adam at a rate of its own"
    return replace(spec, id=name, title=f"{spec.title} under Adam", formula=formula, tasks=GENERATION_ALONE)


GENERATION = [
    MetricSpec(
        id="generation_accuracy",
        title="Share of drawn images recognised as the class asked for",
        formula="on forget: images drawn of the classes of which nothing is left in the retain set, where there are "
        "any; lower is better there; on retain: of the retained classes, higher is better; by the word " + _SEEN,
        source="after Fan et al., ICLR 2024, arXiv:2310.12508",
        basis="none",
        direction="higher",
        ideal=None,
        kind="evidence",
        does_not_prove="A class that is never drawn when asked for can still be known, and be drawn by other means.",
        tasks=GENERATION_ALONE,
        lower_on=("forget",),
    ),
    MetricSpec(
        id="generation_drop",
        title="Loss of recognised images",
        formula="generation_accuracy on retain, original minus unlearned model; both begin each image with the same "
        "noise, and the interval is that of the paired difference",
        source=OURS,
        basis="original",
        direction="lower",
        ideal=0.0,
        kind="evidence",
        does_not_prove="Images can be recognised and have lost variety: read it beside the distance.",
        tasks=GENERATION_ALONE,
    ),
    MetricSpec(
        id="frechet_distance",
        title="Fréchet distance of drawn images to real ones",
        formula="|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of drawn images of retained classes and of real retained "
        "ones, each class counting alike, in the penultimate features " + _SEEN + "; interval by jackknife",
        source="Dowson & Landau 1982; Heusel et al., NeurIPS 2017, arXiv:1706.08500. Not FID: the features are not "
        "Inception's",
        basis="none",
        direction="lower",
        ideal=0.0,
        kind="evidence",
        does_not_prove="Comparable only under one classifier and with as many images; two Gaussians can agree where "
        "images do not.",
        tasks=GENERATION_ALONE,
    ),
    MetricSpec(
        id="fid",
        title="FID",
        formula="as frechet_distance, in Inception's 2048 features, each of up to 2,000 real images counting alike; by "
        "torchmetrics, with torch-fidelity's network and resizing and the weights of UNLEARN_INCEPTION_WEIGHTS",
        source="Heusel et al., NeurIPS 2017, arXiv:1706.08500",
        basis="none",
        direction="lower",
        ideal=0.0,
        kind="smoke_test",
        does_not_prove="Of some hundred images it is larger than of many, and small images are made larger for the "
        "network: it compares within one report, and with no published figure.",
        when="inception weights",
        tasks=GENERATION_ALONE,
    ),
    MetricSpec(
        id="loss_rise",
        title="Rise of the test loss",
        formula="(mean loss of the unlearned model - the original's) / the original's, on test samples whose label is "
        "still in the retain set, on equal draws of timestep and noise; paired interval",
        source=OURS,
        basis="original",
        direction="lower",
        ideal=0.0,
        kind="evidence",
        does_not_prove="Equal losses do not make equal images.",
        tasks=GENERATION_ALONE,
    ),
    _under_adam("relearning_delay", "relearning_adam.delay"),
    _under_adam("relearning_ratio", "relearning_adam.ratio"),
    replace(_under_adam("anamnesis", "relearning_adam.anamnesis"), title="Anamnesis under Adam"),
]
