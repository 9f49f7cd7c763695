"""SSD: options and what it promises."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from service.catalogue.methods.dampening import DampeningConfig
from service.catalogue.methods.spec import APPROXIMATE, MethodSpec


class SsdConfig(DampeningConfig):
    """Options of SSD; the preset `service`, the default, calibrates alpha, `paper` takes the published one."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"alpha": 10.0, "lam": 1.0}}

    preset: Literal["service", "paper"] = Field("service", description="Starting values; options given override them.")


SSD = MethodSpec(
    id="ssd",
    title="Selective synaptic dampening",
    paper="Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening, AAAI 2024, "
    "arXiv:2308.07707",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "forget_labels", "retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias"}),
    uses=frozenset({"importance_loss"}),
    instead_of_retain="importance_loss",
    config=SsdConfig,
    summary="Weights that matter far more to the forget set than to all data are shrunk, once; nothing is trained.",
    does_not_prove=APPROXIMATE + " Dampened weights keep their sign: training on may bring back what they held.",
)
