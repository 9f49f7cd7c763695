"""Unlearning with an incompetent teacher: options and what it promises."""

from typing import Literal

from pydantic import Field

from service.catalogue.methods.spec import APPROXIMATE, MethodConfig, MethodSpec
from service.catalogue.tasks import NEEDS_LOGITS, Task


class BadTeacherConfig(MethodConfig):
    """Options of the incompetent teacher; one epoch of Adam at 1e-4 as published, batch size and share ours."""

    optimizer: Literal["sgd", "adam", "adamw"] = Field("adam", description="Update rule.")
    lr: float = Field(1e-4, gt=0, le=1, description="Learning rate, constant.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum; Adam takes it as its first beta.")
    weight_decay: float = Field(0.0, ge=0, lt=1, description="L2 penalty.")
    epochs: int = Field(1, ge=1, le=1000, description="Passes over the forget set and the retained samples drawn.")
    batch_size: int = Field(256, ge=1, le=8192, description="Samples per optimisation step, of both sets as one.")
    retain_share: float = Field(0.3, gt=0, le=1, description="Share of the retain set that is drawn once and taught.")


BAD_TEACHER = MethodSpec(
    id="bad_teacher",
    title="Incompetent teacher",
    paper="Chundawat et al., Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks Using an Incompetent "
    "Teacher, AAAI 2023, arXiv:2205.08096",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias"}),
    uses=frozenset({"teacher_logits"}),
    config=BadTeacherConfig,
    summary="The student follows an untrained net on the forget set and the original on a share of the retain set.",
    does_not_prove=APPROXIMATE + " A sample answered like an untrained net would can be told from one never seen.",
    not_for={Task.GENERATION: NEEDS_LOGITS},
)
