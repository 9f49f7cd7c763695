"""What undoing a confusion of two classes, and removing a learned bias, must change."""

from service.catalogue.metrics.spec import MetricSpec

_SOURCE = "Goel et al. 2022, arXiv:2201.06640; Kurmanji et al., NeurIPS 2023, arXiv:2302.09880"
_BIAS = "Kurmanji et al., NeurIPS 2023, arXiv:2302.09880"

PURPOSES = [
    MetricSpec(
        id="ic_err",
        title="Interclass confusion, error",
        formula="test samples of the two confused classes predicted as any other than their own, over all test "
        "samples of the two; the classes are the two labels of the forget set",
        source=_SOURCE,
        basis="original",
        direction="lower",
        ideal=0.0,
        kind="evidence",
        does_not_prove="Errors that have nothing to do with the confusion count too.",
    ),
    MetricSpec(
        id="fgt_err",
        title="Interclass confusion, samples taken for the other class",
        formula="test samples of class A predicted as B plus those of B predicted as A",
        source=_SOURCE,
        basis="original",
        direction="lower",
        ideal=0.0,
        kind="evidence",
        does_not_prove="A clean model confuses some samples as well: compare with a retrained one where there is one.",
    ),
    MetricSpec(
        id="forget_error.rate",
        title="Error on the forget set",
        formula="share of forget samples predicted as any class other than their label",
        source=_BIAS,
        basis="none",
        direction="higher",
        ideal=1.0,
        kind="smoke_test",
        does_not_prove="Erring on purpose is no forgetting: what is avoided is still known.",
    ),
    MetricSpec(
        id="forget_error.excess",
        title="Error on the forget set above that on unseen controls",
        formula="error on forget samples minus error on unseen controls of the same labels; interval by Newcombe",
        source=_BIAS,
        basis="unseen controls",
        direction="higher",
        ideal=None,
        kind="evidence",
        does_not_prove="Meant for bias: for privacy, an error above the controls' tells members.",
    ),
]
