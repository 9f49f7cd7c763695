"""Influence on the last layer: options and what it promises."""

from typing import Annotated

from pydantic import Field

from service.catalogue.methods.spec import APPROXIMATE, MethodConfig, MethodSpec
from service.catalogue.tasks import NEEDS_LOGITS, Task

Scale = Annotated[float, Field(gt=0, le=1e6)]


class InfluenceConfig(MethodConfig):
    """Options of the influence step."""

    damping: float = Field(1e-3, gt=0, le=1e6, description="Added to the Hessian's diagonal.")
    iterations: int = Field(100, ge=1, le=100_000, description="Conjugate gradient steps at most.")
    tolerance: float = Field(1e-6, gt=0, lt=1, description="Relative residual at which the step counts as solved for.")
    l2: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="L2 penalty of the objective the model was trained by. Null: the recipe's weight decay, 0 for "
        "adamw, whose decay is no part of the objective.",
    )
    scale: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="Multiple of the Newton step; 1 is the papers'. Null: each of a grid is tried and the selection "
        "pool decides.",
    )
    scales: tuple[Scale, ...] = Field(
        (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
        min_length=1,
        max_length=100,
        description="The grid where scale is null.",
    )


INFLUENCE = MethodSpec(
    id="influence",
    title="Influence step on the last layer",
    paper="Guo et al., Certified Data Removal from Machine Learning Models, ICML 2020, arXiv:1911.03030; Izzo et al., "
    "Approximate Data Deletion from Machine Learning Models, AISTATS 2021, arXiv:2002.10077",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "forget_labels", "retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    config=InfluenceConfig,
    summary="One damped Newton step of the last layer's weights, to where the retain set alone would have led; nothing "
    "is trained. Ours: the last layer alone, the damping, and a multiple of the step chosen on the selection pool. A "
    "net whose last layer is not linear is refused.",
    does_not_prove=APPROXIMATE + " All layers but the last are the original's and keep all they learned.",
    not_for={Task.GENERATION: NEEDS_LOGITS},
)
