"""What retraining and SISA share on a model that is trained in shards: the run, its history, and what is kept of it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workers.architectures.ensemble import Ensemble
from workers.sharded_training import ShardedTraining, TooManyShardsError, train_sharded
from workers.training import NonFiniteLossError
from workers.unlearning.interface import DivergedError, Surroundings, UnlearningError, UnlearningSplits, classifying

SHARD_CHECKPOINTS = "shard_checkpoints"
SEED, POSITIONS = "seed", "positions"


def retained_positions(splits: UnlearningSplits) -> Tensor:
    """Return where the retained samples stand in the dataset, int64 (n,) on the CPU.

    Raises RetainSetGoneError, UnlearningError without positions.
    """
    _ = splits.retain
    if splits.positions is None:
        raise UnlearningError(
            "a model trained in shards needs its samples' positions in the dataset; pass `positions` in the splits"
        )
    return splits.positions.cpu()[splits.retain_index.cpu()]


def trained_on_retain(
    ensemble: nn.Module,
    splits: UnlearningSplits,
    *,
    seed: int,
    around: Surroundings,
    start: Mapping[int, int] | None = None,
) -> ShardedTraining:
    """Train the ensemble in place on the retain set, as train_sharded does. Raises DivergedError, UnlearningError."""
    if not isinstance(ensemble, Ensemble):
        raise UnlearningError("the recipe has `sisa`, but the network is no ensemble of shards")
    try:
        return train_sharded(
            ensemble,
            splits.retain,
            around.recipe,
            positions=retained_positions(splits),
            seed=seed,
            task=classifying(around),
            start=start,
            progress=around.progress,
            phase="unlearn",
            journal=around.journal,
        )
    except NonFiniteLossError as error:
        raise DivergedError(str(error)) from error
    except TooManyShardsError as error:
        raise UnlearningError(str(error)) from error


def history_of(training: ShardedTraining) -> tuple[dict[str, Any], ...]:
    """Return one entry per epoch: its shard, its last slice, and how many samples it passed over."""
    return tuple(
        {
            "epoch": number,
            "shard": epoch.shard,
            "slice": epoch.slice,
            "samples": epoch.samples,
            "objectives": {"loss": epoch.loss},
        }
        for number, epoch in enumerate(training.epochs, start=1)
    )


def kept(checkpoints: Mapping[str, Tensor], *, seed: int, positions: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return what a later SISA request starts from: checkpoints, the training's seed, and whom it was trained on."""
    said = {SEED: torch.tensor(seed), POSITIONS: positions.cpu().sort().values}
    return {SHARD_CHECKPOINTS: {**checkpoints, **said}}
