"""NegGrad+: options, the paper's presets, and what it promises."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from service.catalogue.methods.descent import DescentConfig
from service.catalogue.methods.spec import APPROXIMATE, MethodSpec
from service.catalogue.tasks import Task

_PAPER: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "lr": 0.01,
    "weight_decay": 5e-4,
    "epochs": 10,
    "forget_cap": None,
    "tail_epochs": 0,
    "rewind": "none",
}


class NegGradPlusConfig(DescentConfig):
    """Options of NegGrad+; the defaults are the preset `service`, ours, the others are the paper's."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {**_PAPER, "beta": 0.95},
        "large": {**_PAPER, "beta": 0.9999},
    }

    preset: Literal["service", "small", "large"] = Field(
        "service", description="Starting values; options given override them."
    )
    beta: float = Field(0.8, ge=0, le=1, description="Weight of the retain loss; the forget loss has the rest.")
    forget_cap: float | None = Field(
        1.0,
        gt=0,
        le=100,
        description="A forgotten sample's loss is raised no further above this many times log(classes), which is the "
        "loss of a guess. Null: without end, as in the paper.",
    )
    epochs: int = Field(3, ge=1, le=1000, description="Passes over the retain set on which the forget loss rises.")
    tail_epochs: int = Field(
        2, ge=0, le=1000, description="Passes over the retain set alone after them, which restore accuracy."
    )
    tail_lr_factor: float = Field(
        1.0, gt=0, le=1, description="Factor on the learning rate in the tail, whence it falls to 0 by a cosine."
    )


NEGGRAD_PLUS = MethodSpec(
    id="neggrad_plus",
    title="NegGrad+",
    paper="Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023, arXiv:2302.09880, section 3",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "forget_labels", "retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    for_purpose={"bias": {"rewind": "none"}, "confusion": {"rewind": "none"}},
    # at the cap of classifiers, the loss of predicting no noise, a class ended at 8 times the loss of one never seen
    for_task={
        Task.GENERATION: {
            "beta": 0.8,
            "forget_cap": 0.4,
            "lr_share": 0.2,
            "weight_decay": 0.0,
            "epochs": 1,
            "tail_epochs": 2,
            "retain_batch_size": 64,
            "forget_batch_size": 32,
        }
    },
    config=NegGradPlusConfig,
    summary="Every step lowers the loss on a retain batch and raises it, to a cap, on a forget batch; "
    "epochs on the retain set alone follow.",
    does_not_prove=APPROXIMATE + " A loss pushed above that of unseen samples reveals membership as well.",
)
