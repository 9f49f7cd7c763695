"""DELETE: options, the paper's preset, and what it promises."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from service.catalogue.methods.spec import APPROXIMATE, MethodConfig, MethodSpec
from service.catalogue.tasks import NEEDS_LOGITS, Task


class DeleteConfig(MethodConfig):
    """Options of DELETE; the defaults are the preset `service`, ours."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"epochs": 20, "lr": 1e-4, "optimizer": "sgd", "batch_size": 64}
    }

    preset: Literal["service", "paper"] = Field("service", description="Starting values; options given override them.")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("adam", description="Update rule.")
    lr: float = Field(1e-4, gt=0, le=1, description="Learning rate, constant.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum; Adam takes it as its first beta.")
    weight_decay: float = Field(0.0, ge=0, lt=1, description="L2 penalty.")
    epochs: int = Field(20, ge=1, le=1000, description="Passes over the forget set.")
    batch_size: int | None = Field(
        None, ge=1, le=8192, description="Forget samples per step. Null: 64, smaller for small forget sets."
    )


DELETE = MethodSpec(
    id="delete",
    title="DELETE",
    paper="Zhou et al., Decoupled Distillation to Erase, CVPR 2025, arXiv:2503.23751",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "forget_labels"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias"}),
    config=DeleteConfig,
    summary="On the forget set alone the model learns what the original said of all classes but the true one; "
    "nothing else is read, so it works when the retain set is gone.",
    does_not_prove=APPROXIMATE + " Without a selection pool nothing watches the accuracy, and samples of a class that "
    "stays may end up wrong more often than unseen ones, which shows membership too.",
    own_stop=True,
    not_for={Task.GENERATION: NEEDS_LOGITS},
)
