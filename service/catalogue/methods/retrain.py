"""Retraining without the forget set, the yardstick: options and what it promises."""

from service.catalogue.methods.spec import MethodConfig, MethodSpec


class RetrainConfig(MethodConfig):
    """Options of retraining: none but the seed, since the registered recipe decides."""


RETRAIN = MethodSpec(
    id="retrain",
    title="Retraining without the forget set",
    paper="The definition of exact unlearning; e.g. Bourtoule et al., Machine Unlearning, S&P 2021, arXiv:1912.03817",
    guarantee="exact",
    fidelity="paper",
    needs=frozenset({"retain", "recipe"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    config=RetrainConfig,
    summary="A fresh initialisation, trained by the registered recipe on the retain set.",
    does_not_prove="Nothing about copies, logs or caches of the data outside this model, nor about "
    "choices (recipe, architecture) that were made with the erased samples in view.",
)
