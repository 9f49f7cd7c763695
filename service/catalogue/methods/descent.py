"""Options shared by the methods that descend on retain and forget batches epoch by epoch."""

from typing import Literal

from pydantic import Field

from service.catalogue.methods.spec import MethodConfig


class DescentConfig(MethodConfig):
    """How steps are taken and how the epoch returned is chosen. A subclass sets its own defaults."""

    optimizer: Literal["sgd", "adam", "adamw"] | None = Field(None, description="Update rule. Null: the recipe's.")
    momentum: float | None = Field(
        None, ge=0, lt=1, description="SGD momentum; Adam takes it as its first beta. Null: the recipe's."
    )
    lr: float | None = Field(None, gt=0, le=1, description="Learning rate. Null: lr_share of the recipe's.")
    lr_share: float | None = Field(
        None,
        gt=0,
        le=100,
        description="The learning rate in units of the recipe's, where lr is null. Null: the method's.",
    )
    weight_decay: float = Field(5e-4, ge=0, lt=1, description="L2 penalty.")
    epochs: int = Field(10, ge=1, le=1000, description="Epochs of the method, as long as its sets of data say.")
    retain_batch_size: int | None = Field(
        None, ge=1, le=8192, description="Retained samples per step. Null: the recipe's, smaller for small retain sets."
    )
    forget_batch_size: int | None = Field(
        None, ge=1, le=8192, description="Forgotten samples per step. Null: 64, smaller for small forget sets."
    )
    rewind: Literal["service", "paper", "none"] = Field(
        "service",
        description="Which epoch is returned. paper: that of the nearest forget error to held-out samples of the same "
        "classes, as in SCRUB+R. service: the same with errors tied that a 95 % test cannot tell apart. none: the last "
        "that keeps accuracy.",
    )
