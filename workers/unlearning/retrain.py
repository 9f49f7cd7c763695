"""Exact unlearning: a fresh initialisation trained by the registered recipe on the retain set.

The definition every approximate method is compared with; e.g. Bourtoule et al., S&P 2021, arXiv:1912.03817.
The parent's weights are used for nothing but their device. A recipe with `sisa` is followed as well: the new network is
trained in shards, and has checkpoints of its own.
"""

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from service.catalogue.methods import RetrainConfig
from workers.classification import device_of, placed
from workers.reproducibility import derived_seed
from workers.training import NonFiniteLossError, train
from workers.unlearning.interface import DivergedError, Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.shards import history_of, kept, retained_positions, trained_on_retain


def retrain(
    model: nn.Module,
    splits: UnlearningSplits,
    config: RetrainConfig,  # noqa: ARG001
    *,
    around: Surroundings,
) -> UnlearningResult:
    """Train a new network on the retain set; its seed is drawn from the generator.

    Raises DivergedError; for a model trained in shards UnlearningError where the samples' positions are unknown.
    """
    started = time.perf_counter()
    seed = derived_seed(around.generator)
    fresh = placed(around.build_model(seed), device_of(model))
    history, prepared = (
        _plainly(fresh, splits, around) if around.recipe.sisa is None else _in_shards(fresh, splits, seed, around)
    )
    return UnlearningResult(
        model=fresh,
        history=history,
        selection={"epoch": len(history), "rule": "last epoch", "boundary": False},
        prepared=prepared,
        seconds=around.journal.seconds_before + time.perf_counter() - started,
    )


_Outcome = tuple[tuple[dict[str, Any], ...], Mapping[str, Mapping[str, Tensor]]]


def _plainly(fresh: nn.Module, splits: UnlearningSplits, around: Surroundings) -> _Outcome:
    try:
        trained = train(
            fresh,
            splits.retain,
            around.recipe,
            task=around.task,
            generator=around.generator,
            progress=around.progress,
            phase="unlearn",
            keeper=around.journal.part("retrain", last=True),
        )
    except NonFiniteLossError as error:
        raise DivergedError(str(error)) from error
    rows = enumerate(trained.epoch_losses, start=1)
    return tuple({"epoch": epoch, "objectives": {"loss": loss}} for epoch, loss in rows), {}


def _in_shards(fresh: nn.Module, splits: UnlearningSplits, seed: int, around: Surroundings) -> _Outcome:
    training = trained_on_retain(fresh, splits, seed=seed, around=around)
    return history_of(training), kept(training.checkpoints, seed=seed, positions=retained_positions(splits))
