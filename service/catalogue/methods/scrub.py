"""SCRUB and SCRUB+R: options, the paper's presets, and what they promise."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from service.catalogue.methods.spec import APPROXIMATE, MethodConfig, MethodSpec
from service.catalogue.tasks import Task

_SCRUB_PAPER = "Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023, arXiv:2302.09880"
_PAPER: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "lr": 5e-4,
    "weight_decay": 5e-4,
    "lr_decay_rate": 0.1,
    "push_norm": None,
}
SCRUB_PAPER_PRESETS: dict[str, dict[str, Any]] = {
    "large": {
        **_PAPER,
        "gamma": 0.99, "alpha": 0.001, "temperature": 4.0, "msteps": 2, "epochs": 3,
        "lr_decay_epochs": (3, 5, 9), "retain_batch_size": 256, "forget_batch_size": 512,
    },
    "small": {
        **_PAPER,
        "optimizer": "adam", "weight_decay": 0.1,
        "gamma": 1.0, "alpha": 0.5, "temperature": 2.0, "msteps": 3, "epochs": 10,
        "lr_decay_epochs": (5, 8, 9), "retain_batch_size": 32, "forget_batch_size": 64,
    },
    "privacy": {
        **_PAPER,
        "gamma": 1.0, "alpha": 0.5, "temperature": 4.0, "msteps": 3, "epochs": 5,
        "lr_decay_epochs": (3, 5, 9), "retain_batch_size": 32, "forget_batch_size": 16,
    },
    "confusion": {
        **_PAPER,
        "gamma": 1.0, "alpha": 0.01, "temperature": 2.0, "msteps": 2, "epochs": 10,
        "lr_decay_epochs": (7, 10, 10), "retain_batch_size": 32, "forget_batch_size": 32,
    },
    "cifar100-vgg16": {
        **_PAPER,
        "gamma": 0.99, "alpha": 0.01, "temperature": 4.0, "msteps": 2, "epochs": 10,
        "lr_decay_epochs": (3, 6, 9), "retain_batch_size": 128, "forget_batch_size": 16,
    },
}  # fmt: skip
ScrubPreset = Literal["service", "large", "small", "privacy", "confusion", "cifar100-vgg16"]


class ScrubConfig(MethodConfig):
    """Options of SCRUB; the defaults are the preset `service`, ours, all others are the paper's."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = SCRUB_PAPER_PRESETS

    preset: ScrubPreset = Field("service", description="Starting values; options given override them.")
    optimizer: Literal["sgd", "adam", "adamw"] | None = Field(
        None, description="Update rule; one state serves both kinds of epoch. Null: the recipe's."
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="SGD momentum; Adam takes it as its first beta. Null: the recipe's."
    )
    lr: float | None = Field(
        None, gt=0, le=1, description="Learning rate before any decay. Null: lr_share of the recipe's."
    )
    lr_share: float | None = Field(
        None, gt=0, le=100, description="The learning rate in units of the recipe's, where lr is null. Null: half."
    )
    weight_decay: float = Field(5e-4, ge=0, lt=1, description="L2 penalty.")
    gamma: float = Field(1.0, ge=0, le=100, description="Weight of the cross-entropy in min epochs.")
    alpha: float = Field(0.05, ge=0, le=100, description="Weight of the distance in min epochs.")
    temperature: float = Field(2.0, gt=0, le=100, description="T of the distillation distance.")
    msteps: int = Field(12, ge=0, le=1000, description="How many of the first epochs start with a max epoch.")
    epochs: int = Field(14, ge=1, le=1000, description="E: epochs in all; each holds one min epoch.")
    lr_decay_epochs: tuple[int, ...] = Field(
        (5,), description="Epochs after which the rate is multiplied by lr_decay_rate; repeats count."
    )
    lr_decay_rate: float = Field(0.1, gt=0, le=1, description="Factor per decay epoch.")
    retain_batch_size: int | None = Field(
        None, ge=1, le=8192, description="Samples per min step. Null: the recipe's, smaller for small retain sets."
    )
    forget_batch_size: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="Samples per max step. Null: 64, smaller for small forget sets, and larger for large ones, whose "
        "many steps would else cost accuracy for good.",
    )
    push_norm: float | None = Field(
        0.5,
        gt=0,
        le=1e6,
        description="Norm that the gradient of max steps is scaled to. Null: left as it is, as in the paper.",
    )
    anchor_p: float = Field(
        0.0, ge=0, le=100, description="Weight of the sum of Frobenius distances to the original weights."
    )


class ScrubRConfig(ScrubConfig):
    """Options of SCRUB+R: SCRUB's, then the rewind chooses among the epochs."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**values, "rewind": "paper", "adapt_push": False, "more_epochs": 0}
        for name, values in SCRUB_PAPER_PRESETS.items()
    }

    rewind: Literal["service", "paper"] = Field(
        "service",
        description="paper: nearest forget error, then nearest loss. service: errors that a 95 % test cannot tell "
        "apart are tied, the loss should be clear of the original's, and the selection pool's loss decides.",
    )
    adapt_push: bool = Field(
        default=True, description="Move push_norm from epoch to epoch towards the loss that the rewind aims at."
    )
    more_epochs: int = Field(
        8, ge=0, le=1000, description="Most epochs added while few so far forget clearly and keep accuracy."
    )


SCRUB = MethodSpec(
    id="scrub",
    title="SCRUB",
    paper=_SCRUB_PAPER,
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"bias", "confusion"}),
    uses=frozenset({"teacher_logits"}),
    # the first push starts from a distance of 0 and moves little, the second forgets
    for_task={
        Task.GENERATION: {
            "lr_share": 0.35,
            "weight_decay": 0.0,
            "alpha": 0.1,
            "msteps": 2,
            "epochs": 3,
            "lr_decay_epochs": (2,),
            "lr_decay_rate": 0.4,
            "retain_batch_size": 64,
            "forget_batch_size": 32,
        }
    },
    config=ScrubConfig,
    summary="A student starts from the original model, moves away from it on the forget set and stays "
    "near it on the retain set, in alternating epochs.",
    does_not_prove=APPROXIMATE + " Pushing the forget error as high as possible can itself reveal membership.",
)
SCRUB_R = MethodSpec(
    id="scrub_r",
    title="SCRUB+R",
    paper=_SCRUB_PAPER,
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "forget_labels", "retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy"}),
    uses=frozenset({"teacher_logits"}),
    config=ScrubRConfig,
    summary="SCRUB, then a rewind to the epoch whose forget error is nearest that of held-out samples of "
    "the same classes.",
    does_not_prove=APPROXIMATE + " The rewind matches an error rate, which several models can share.",
    not_for={Task.GENERATION: "its rewind compares error rates, and a model that predicts noise has none; scrub works"},
)
