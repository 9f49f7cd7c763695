"""The unlearning methods, what each needs and promises, and its options with the paper's presets.

The methods themselves stand in workers.unlearning under the same names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.catalogue.recipe import MAX_SEED

Purpose = Literal["privacy", "bias", "confusion"]
AUTO = "auto"
"""Asks the service to choose: the methods of the model's ladder, in its order."""
Need = Literal["forget", "forget_labels", "retain", "validation", "recipe"]


class MethodConfig(BaseModel):
    """Base of every method's options. Fields that a request names override those of the preset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Seed of every random choice; drawn by the service if left out."
    )

    @model_validator(mode="before")
    @classmethod
    def fill_from_preset(cls, given: object) -> object:
        """Lay the options given over the values of the preset named."""
        if not isinstance(given, Mapping):
            return given
        return {**cls.PRESETS.get(str(given.get("preset")), {}), **given}


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
        None, gt=0, le=1, description="Learning rate before any decay. Null: half of the recipe's."
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
        None, ge=1, le=8192, description="Samples per max step. Null: 64, smaller for small forget sets."
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


class FinetuneConfig(MethodConfig):
    """Options of fine-tuning on the retain set."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="Update rule.")
    lr: float = Field(0.01, gt=0, le=1, description="Learning rate, constant.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum; Adam takes it as its first beta.")
    weight_decay: float = Field(5e-4, ge=0, lt=1, description="L2 penalty.")
    epochs: int = Field(10, ge=1, le=1000, description="Passes over the retain set.")
    batch_size: int = Field(128, ge=1, le=8192, description="Samples per optimisation step.")


class RetrainConfig(MethodConfig):
    """Options of retraining: none but the seed, since the registered recipe decides."""


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """Describe one method: what it needs, what it promises, and what it does not prove.

    `needs_in_class_retain` is True when every forgotten class must still occur in the retain set.
    """

    id: str
    title: str
    paper: str
    guarantee: Literal["exact", "approximate"]
    fidelity: Literal["paper", "reconstruction"]
    needs: frozenset[Need]
    needs_in_class_retain: bool
    purposes: frozenset[Purpose]
    config: type[MethodConfig]
    summary: str
    does_not_prove: str


def options_of(method: str) -> type[MethodConfig]:
    """Return the schema of a method's options; `auto` takes the seed alone. Raises KeyError."""
    return MethodConfig if method == AUTO else METHODS[method].config


_SCRUB_PAPER = "Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023, arXiv:2302.09880"
_APPROXIMATE = (
    "Not a proof of removal: influence of the forget set may remain in the weights in ways the reported "
    "attacks do not see."
)

METHODS: dict[str, MethodSpec] = {
    "scrub": MethodSpec(
        id="scrub",
        title="SCRUB",
        paper=_SCRUB_PAPER,
        guarantee="approximate",
        fidelity="paper",
        needs=frozenset({"forget", "retain"}),
        needs_in_class_retain=False,
        purposes=frozenset({"bias", "confusion"}),
        config=ScrubConfig,
        summary="A student starts from the original model, moves away from it on the forget set and stays "
        "near it on the retain set, in alternating epochs.",
        does_not_prove=_APPROXIMATE + " Pushing the forget error as high as possible can itself reveal membership.",
    ),
    "scrub_r": MethodSpec(
        id="scrub_r",
        title="SCRUB+R",
        paper=_SCRUB_PAPER,
        guarantee="approximate",
        fidelity="paper",
        needs=frozenset({"forget", "forget_labels", "retain", "validation"}),
        needs_in_class_retain=False,
        purposes=frozenset({"privacy"}),
        config=ScrubRConfig,
        summary="SCRUB, then a rewind to the epoch whose forget error is nearest that of held-out samples of "
        "the same classes.",
        does_not_prove=_APPROXIMATE + " The rewind matches an error rate, which several models can share.",
    ),
    "finetune": MethodSpec(
        id="finetune",
        title="Fine-tuning on the retain set",
        paper="Baseline; e.g. Golatkar et al., Eternal Sunshine of the Spotless Net, CVPR 2020, arXiv:1911.04933",
        guarantee="approximate",
        fidelity="paper",
        needs=frozenset({"retain"}),
        needs_in_class_retain=False,
        purposes=frozenset({"privacy", "bias", "confusion"}),
        config=FinetuneConfig,
        summary="Training goes on with the cross-entropy on the retain set alone.",
        does_not_prove=_APPROXIMATE + " It mostly leaves the forget set relearnable at once.",
    ),
    "retrain": MethodSpec(
        id="retrain",
        title="Retraining without the forget set",
        paper="The definition of exact unlearning; e.g. Bourtoule et al., Machine Unlearning, S&P 2021, "
        "arXiv:1912.03817",
        guarantee="exact",
        fidelity="paper",
        needs=frozenset({"retain", "recipe"}),
        needs_in_class_retain=False,
        purposes=frozenset({"privacy", "bias", "confusion"}),
        config=RetrainConfig,
        summary="A fresh initialisation, trained by the registered recipe on the retain set.",
        does_not_prove="Nothing about copies, logs or caches of the data outside this model, nor about "
        "choices (recipe, architecture) that were made with the erased samples in view.",
    ),
}
