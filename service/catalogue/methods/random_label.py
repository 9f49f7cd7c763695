"""Random labels: options and what it promises."""

from pydantic import Field

from service.catalogue.methods.descent import DescentConfig
from service.catalogue.methods.spec import APPROXIMATE, MethodSpec
from service.catalogue.tasks import Task


class RandomLabelConfig(DescentConfig):
    """Options of training on random wrong labels."""

    epochs: int = Field(3, ge=1, le=1000, description="Passes over retain and forget set together.")
    tail_epochs: int = Field(
        3, ge=0, le=1000, description="Passes over the retain set alone after them, which restore accuracy."
    )
    tail_lr_factor: float = Field(
        1.0, gt=0, le=1, description="Factor on the learning rate in the tail, whence it falls to 0 by a cosine."
    )


RANDOM_LABEL = MethodSpec(
    id="random_label",
    title="Random labels",
    paper="Baseline; e.g. Graves, Nagisetty, Ganesh, Amnesiac Machine Learning, AAAI 2021, arXiv:2010.10981",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "forget_labels", "retain", "validation"}),
    needs_in_class_retain=False,
    needs_class_condition=True,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    for_purpose={"bias": {"rewind": "none"}, "confusion": {"rewind": "none"}},
    for_task={
        Task.GENERATION: {
            "lr_share": 0.2,
            "weight_decay": 0.0,
            "epochs": 1,
            "tail_epochs": 2,
            "retain_batch_size": 64,
            "forget_batch_size": 64,
        }
    },
    config=RandomLabelConfig,
    summary="Training goes on with the forget set under random wrong labels beside the retain set.",
    does_not_prove=APPROXIMATE + " A sample that is taught a wrong answer can be told from one never seen.",
)
