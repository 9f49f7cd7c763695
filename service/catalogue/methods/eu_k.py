"""EU-k: options and what it promises."""

from typing import Literal

from pydantic import Field

from service.catalogue.methods.cf_k import LayerCount
from service.catalogue.methods.spec import APPROXIMATE, MethodConfig, MethodSpec
from service.catalogue.tasks import NEEDS_A_HEAD, Task


class EuKConfig(MethodConfig):
    """Options of EU-k; how the last layers are trained follows the recipe where it is left null."""

    k: LayerCount = None
    epochs: int | None = Field(None, ge=1, le=1000, description="Passes over the retain set. Null: the recipe's.")
    optimizer: Literal["sgd", "adam", "adamw"] | None = Field(None, description="Update rule. Null: the recipe's.")
    lr: float | None = Field(
        None, gt=0, le=10, description="Learning rate; the peak where the schedule varies it. Null: the recipe's."
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="SGD momentum; Adam takes it as its first beta. Null: the recipe's."
    )
    weight_decay: float | None = Field(None, ge=0, lt=1, description="L2 penalty. Null: the recipe's.")
    schedule: Literal["constant", "one_cycle", "cosine"] | None = Field(
        None, description="Learning rate over the steps. Null: the recipe's."
    )
    batch_size: int | None = Field(None, ge=2, le=8192, description="Samples per step. Null: the recipe's.")


EU_K = MethodSpec(
    id="eu_k",
    title="Retraining of the last k layers (EU-k)",
    paper="Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning, 2022, arXiv:2201.06640",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"retain", "recipe", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    config=EuKConfig,
    summary="The last k layers start from a fresh initialisation and are trained by the registered recipe on the "
    "retain set; all before them stays exactly as it was. Ours: the number of layers taken by default.",
    does_not_prove=APPROXIMATE + " The last layers never saw the forget set, but they read features that did.",
    not_for={Task.GENERATION: NEEDS_A_HEAD},
)
