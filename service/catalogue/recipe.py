"""The training recipe a model is registered with. The original model and every retrained model follow it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**31 - 1
MAX_SHARDS = 64


class Sharding(BaseModel):
    """Describe SISA training (Bourtoule et al., S&P 2021): one network per shard, each fed slice after slice."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int = Field(ge=1, le=MAX_SHARDS, description="Networks, each trained on its share of the samples alone.")
    slices: int = Field(
        ge=1, le=MAX_SHARDS, description="Parts of a shard, added one after the other with a checkpoint before each."
    )


class Recipe(BaseModel):
    """Describe how a network is trained from a fresh initialisation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(25, ge=1, le=1000, description="Passes over the training set.")
    batch_size: int = Field(
        128, ge=2, le=8192, description="Samples per optimisation step; batch norm needs two at least."
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="Update rule.")
    lr: float = Field(0.1, gt=0, le=10, description="Learning rate; the peak where the schedule varies it.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum; Adam takes it as its first beta.")
    weight_decay: float = Field(5e-4, ge=0, lt=1, description="L2 penalty (decoupled for adamw).")
    schedule: Literal["constant", "one_cycle", "cosine"] = Field(
        "one_cycle", description="Learning rate over the steps."
    )
    precision: Literal["mixed"] | None = Field(
        None,
        description="mixed: products of training and unlearning steps in bfloat16, weights in float32; what is "
        "measured is in float32. Null: float32 throughout.",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of the initialisation and of the batch order.")
    sisa: Sharding | None = Field(
        None, description="Train an ensemble in shards and slices, from which samples can be removed exactly by `sisa`."
    )
