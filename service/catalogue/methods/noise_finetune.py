"""Weight noise, then fine-tuning: options and what it promises."""

from typing import Literal

from pydantic import Field

from service.catalogue.methods.spec import APPROXIMATE, MethodConfig, MethodSpec
from service.catalogue.tasks import Task


class NoiseFinetuneConfig(MethodConfig):
    """Options of one-shot noise with fine-tuning; those left null follow the recipe."""

    noise: float = Field(
        0.3, ge=0, le=10, description="s: standard deviation of the noise in units of each tensor's root mean square."
    )
    shrink: float = Field(0.3, ge=0, le=1, description="Share of each weight that is taken away before the noise.")
    epochs: int = Field(6, ge=1, le=1000, description="Passes over the retain set.")
    optimizer: Literal["sgd", "adam", "adamw"] | None = Field(None, description="Update rule. Null: the recipe's.")
    lr: float | None = Field(
        None, gt=0, le=10, description="Learning rate; the peak where the schedule varies it. Null: the recipe's."
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="SGD momentum; Adam takes it as its first beta. Null: the recipe's."
    )
    weight_decay: float = Field(5e-4, ge=0, lt=1, description="L2 penalty.")
    schedule: Literal["constant", "one_cycle", "cosine"] = Field(
        "one_cycle", description="Learning rate over the steps."
    )
    batch_size: int | None = Field(None, ge=2, le=8192, description="Samples per step. Null: the recipe's.")


NOISE_FINETUNE = MethodSpec(
    id="noise_finetune",
    title="Weight noise, then fine-tuning",
    paper="Control; after shrink and perturb, Ash & Adams, On Warm-Starting Neural Network Training, NeurIPS 2020, "
    "arXiv:1910.08475",
    guarantee="approximate",
    fidelity="reconstruction",
    needs=frozenset({"retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    # the noise and the shrinking of classifiers cost a diffusion model more than so few epochs bring back
    for_task={Task.GENERATION: {"noise": 0.1, "shrink": 0.1, "weight_decay": 0.0, "epochs": 3}},
    config=NoiseFinetuneConfig,
    summary="The weights are shrunk and perturbed once, then trained on the retain set alone. Ours: noise in units of "
    "each tensor's root mean square, biases and norm layers left alone, and its use to forget.",
    does_not_prove=APPROXIMATE + " It is a control: it never looks at the forget set, so what it removes is chance.",
)
