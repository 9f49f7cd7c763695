"""SSD: options and what it promises."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from service.catalogue.methods.spec import APPROXIMATE, MethodConfig, MethodSpec

Share = Annotated[float, Field(gt=0, lt=1)]


class SsdConfig(MethodConfig):
    """Options of SSD; the preset `service`, the default, calibrates alpha, `paper` takes the published one."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"alpha": 10.0, "lam": 1.0}}

    preset: Literal["service", "paper"] = Field("service", description="Starting values; options given override them.")
    alpha: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="Weights are dampened where the forget set's importance exceeds alpha times that of all data. "
        "Null: each alpha of a grid is tried and the selection pool decides.",
    )
    lam: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="lambda: dampened weights keep min(lambda F_D / F_f, 1) of them. Null: a tenth of alpha, the "
        "ratio of the published two.",
    )
    shares: tuple[Share, ...] = Field(
        (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2),
        min_length=1,
        max_length=100,
        description="The grid where alpha is null: shares of the weights to dampen.",
    )
    memory_mib: int = Field(512, ge=1, le=1_000_000, description="Memory that per-sample gradients may take, MiB.")


SSD = MethodSpec(
    id="ssd",
    title="Selective synaptic dampening",
    paper="Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening, AAAI 2024, "
    "arXiv:2308.07707",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "forget_labels", "retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    uses=frozenset({"importance_loss"}),
    instead_of_retain="importance_loss",
    config=SsdConfig,
    summary="Weights that matter far more to the forget set than to all data are shrunk, once; nothing is trained.",
    does_not_prove=APPROXIMATE + " Dampened weights keep their sign: training on may bring back what they held.",
)
