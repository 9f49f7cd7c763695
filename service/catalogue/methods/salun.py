"""SalUn: options, the paper's preset, and what it promises."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from service.catalogue.methods.random_label import RANDOM_LABEL, RandomLabelConfig
from service.catalogue.methods.spec import MethodSpec


class SalunConfig(RandomLabelConfig):
    """Options of SalUn; the preset `service`, the default, follows the recipe, `paper` has the published values."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "optimizer": "sgd", "momentum": 0.9, "lr": 0.013, "weight_decay": 5e-4, "epochs": 10, "tail_epochs": 0,
            "saliency": 0.5,
            "retain_batch_size": 256, "forget_batch_size": 256, "rewind": "none",
        }
    }  # fmt: skip

    preset: Literal["service", "paper"] = Field("service", description="Starting values; options given override them.")
    saliency: float = Field(
        0.5, gt=0, le=1, description="Share of all weights that may move: those of the largest forget gradient."
    )


SALUN = MethodSpec(
    id="salun",
    title="SalUn",
    paper="Fan et al., SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency, ICLR 2024, "
    "arXiv:2310.12508",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "forget_labels", "retain", "validation"}),
    needs_in_class_retain=False,
    needs_class_condition=True,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    for_purpose=RANDOM_LABEL.for_purpose,
    # its rate too: a twentieth of the recipe's, the share for classifiers, teaches a diffusion model nothing in so few
    # epochs
    for_task=RANDOM_LABEL.for_task,
    config=SalunConfig,
    summary="Random wrong labels are taught, but only to the weights that matter most to the forget set.",
    does_not_prove=RANDOM_LABEL.does_not_prove,
)
