"""MU-Mis: options and what it promises."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from service.catalogue.methods.spec import APPROXIMATE, MethodConfig, MethodSpec
from service.catalogue.tasks import NEEDS_LOGITS, Task


class MuMisConfig(MethodConfig):
    """Options of MU-Mis; rate and threshold are searched for unless they are named."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"all_layers": {"last_layers": None}}

    preset: Literal["service", "all_layers"] = Field(
        "service", description="Starting values; options given override them. all_layers moves all, as in the paper."
    )
    lr: float | None = Field(
        None, gt=0, le=1e6, description="Learning rate to start from. Null: the one whose first step moves the "
        "weights by first_move of their norm."
    )  # fmt: skip
    first_move: float = Field(
        0.01, gt=0, le=1, description="Length of the first step as a share of the norm of the weights; unused with lr."
    )
    growth: float = Field(
        1.05, gt=1, le=100, description="The rate is halved, and the steps since the last check taken back, where "
        "the sensitivity that is watched changed by more than this factor."
    )  # fmt: skip
    max_halvings: int = Field(20, ge=0, le=100, description="Halvings of the rate after which the run ends.")
    delta: float | None = Field(
        None, gt=1, le=1e6, description="Stop where the sensitivity of other classes exceeds this many times its "
        "start and is above its minimum. Null: every check is a candidate and the selection chooses."
    )  # fmt: skip
    check_steps: int | None = Field(
        None, ge=1, le=100_000, description="Steps between two checks. Null: a quarter of a pass over the forget set."
    )
    max_checks: int = Field(40, ge=1, le=1000, description="Checks after which the run ends; each keeps the weights.")
    last_layers: int | None = Field(
        2,
        ge=1,
        le=10_000,
        description="Only the last layers with weights of their own move, this many; fewer where the network has "
        "fewer. Null: all, as in the paper.",
    )
    batch_size: int = Field(64, ge=1, le=8192, description="Forget samples per step.")


MU_MIS = MethodSpec(
    id="mu_mis",
    title="MU-Mis",
    paper="Cheng et al., Remaining-data-free Machine Unlearning by Suppressing Sample Contribution, ICLR 2026, "
    "arXiv:2402.15109",
    guarantee="approximate",
    fidelity="reconstruction",
    needs=frozenset({"forget", "forget_labels"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias"}),
    config=MuMisConfig,
    summary="The sensitivity of the true logit to the image is lowered on the forget set, that of another logit "
    "raised; nothing else is read, so it works when the retain set is gone. Ours: only the last layers move, and rate "
    "and moment to stop are searched; preset `all_layers` moves all, as the paper does.",
    does_not_prove=APPROXIMATE + " Its objective has no lower bound: where it stops decides what is left of the model, "
    "and without a selection pool nothing watches the accuracy.",
    own_stop=True,
    not_for={Task.GENERATION: NEEDS_LOGITS},
)
