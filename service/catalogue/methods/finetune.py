"""Fine-tuning on the retain set: options and what it promises."""

from typing import Literal

from pydantic import Field

from service.catalogue.methods.spec import APPROXIMATE, MethodConfig, MethodSpec
from service.catalogue.tasks import Task


class FinetuneConfig(MethodConfig):
    """Options of fine-tuning on the retain set."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="Update rule.")
    lr: float = Field(0.01, gt=0, le=1, description="Learning rate, constant.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum; Adam takes it as its first beta.")
    weight_decay: float = Field(5e-4, ge=0, lt=1, description="L2 penalty.")
    epochs: int = Field(10, ge=1, le=1000, description="Passes over the retain set.")
    batch_size: int = Field(128, ge=1, le=8192, description="Samples per optimisation step.")


FINETUNE = MethodSpec(
    id="finetune",
    title="Fine-tuning on the retain set",
    paper="Baseline; e.g. Golatkar et al., Eternal Sunshine of the Spotless Net, CVPR 2020, arXiv:1911.04933",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    for_task={Task.GENERATION: {"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0, "epochs": 3, "batch_size": 64}},
    config=FinetuneConfig,
    summary="Training goes on with the cross-entropy on the retain set alone.",
    does_not_prove=APPROXIMATE + " It mostly leaves the forget set relearnable at once.",
)
