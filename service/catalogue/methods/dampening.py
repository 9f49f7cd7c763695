"""Options shared by the methods that shrink, once, the weights that matter to the forget set."""

from typing import Annotated

from pydantic import Field

from service.catalogue.methods.spec import MethodConfig

Share = Annotated[float, Field(gt=0, lt=1)]


class DampeningConfig(MethodConfig):
    """How strongly weights are dampened: as named, or calibrated on the selection pool."""

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
