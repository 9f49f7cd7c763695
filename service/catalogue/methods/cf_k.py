"""CF-k: options and what it promises."""

from typing import Annotated

from pydantic import Field

from service.catalogue.methods.finetune import FinetuneConfig
from service.catalogue.methods.spec import APPROXIMATE, MethodSpec
from service.catalogue.tasks import NEEDS_A_HEAD, Task

LayerCount = Annotated[
    int | None,
    Field(
        ge=1,
        le=100_000,
        description="How many layers train, counted from the output, the classifier included; a layer is a module with "
        "parameters of its own, norm layers too. Null: the head and the last block.",
    ),
]


class CfKConfig(FinetuneConfig):
    """Options of CF-k."""

    k: LayerCount = None


CF_K = MethodSpec(
    id="cf_k",
    title="Fine-tuning of the last k layers (CF-k)",
    paper="Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning, 2022, arXiv:2201.06640",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    config=CfKConfig,
    summary="The last k layers are trained on the retain set alone; all before them stays exactly as it was. Ours: the "
    "number of layers taken by default, the rate and the update rule.",
    does_not_prove=APPROXIMATE + " The frozen layers are the original's and keep all they learned.",
    not_for={Task.GENERATION: NEEDS_A_HEAD},
)
