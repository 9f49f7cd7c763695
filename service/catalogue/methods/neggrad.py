"""NegGrad: options and what it promises."""

from typing import Literal

from pydantic import Field

from service.catalogue.methods.spec import APPROXIMATE, MethodConfig, MethodSpec
from service.catalogue.tasks import Task


class NegGradConfig(MethodConfig):
    """Options of NegGrad; ours, since a baseline has no published values. The rate is small on purpose."""

    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="Update rule.")
    lr: float = Field(1e-4, gt=0, le=1, description="Learning rate, constant, of its own: no share of the recipe's.")
    momentum: float = Field(0.0, ge=0, lt=1, description="SGD momentum; Adam takes it as its first beta.")
    weight_decay: float = Field(0.0, ge=0, lt=1, description="L2 penalty.")
    epochs: int = Field(100, ge=1, le=1000, description="Passes over the forget set; the guard ends them sooner.")
    batch_size: int | None = Field(
        None, ge=1, le=8192, description="Forget samples per step. Null: 64, smaller for small forget sets."
    )


NEGGRAD = MethodSpec(
    id="neggrad",
    title="NegGrad",
    paper="Baseline; e.g. Golatkar et al., Eternal Sunshine of the Spotless Net, CVPR 2020, arXiv:1911.04933",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "forget_labels", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias"}),
    config=NegGradConfig,
    summary="Every step raises the cross-entropy on a batch of the forget set, which nothing bounds; the retain set is "
    "not read. Known to collapse: the selection pool picks an epoch before that, or the attempt fails.",
    does_not_prove=APPROXIMATE + " Ascent alone harms what resembles the forget set, and no step repairs it.",
    not_for={
        Task.GENERATION: "its ascent has no bound, and ruins weights that all classes share; neggrad_plus has one"
    },
)
