"""Exact unlearning: a fresh initialisation trained by the registered recipe on the retain set.

The definition every approximate method is compared with; e.g. Bourtoule et al., S&P 2021, arXiv:1912.03817.
The parent's weights are used for nothing but their device.
"""

import time

from torch import nn

from service.catalogue.methods import RetrainConfig
from workers.classification import device_of
from workers.reproducibility import derived_seed
from workers.training import NonFiniteLossError, train
from workers.unlearning.interface import DivergedError, Surroundings, UnlearningResult, UnlearningSplits


def retrain(
    model: nn.Module,
    splits: UnlearningSplits,
    config: RetrainConfig,  # noqa: ARG001
    *,
    around: Surroundings,
) -> UnlearningResult:
    """Train a new network on the retain set; its seed is drawn from the generator. Raises DivergedError."""
    started = time.perf_counter()
    seed = derived_seed(around.generator)
    fresh = around.build_model(seed).to(device_of(model))
    try:
        trained = train(
            fresh,
            splits.retain,
            around.recipe,
            task=around.task,
            generator=around.generator,
            progress=around.progress,
            phase="unlearn",
        )
    except NonFiniteLossError as error:
        raise DivergedError(str(error)) from error
    return UnlearningResult(
        model=fresh,
        history=tuple(
            {"epoch": epoch, "objectives": {"loss": loss}} for epoch, loss in enumerate(trained.epoch_losses, start=1)
        ),
        selection={"epoch": around.recipe.epochs, "rule": "last epoch", "boundary": False},
        seconds=time.perf_counter() - started,
    )
