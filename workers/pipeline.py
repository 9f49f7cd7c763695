"""Train, unlearn and evaluate on tensors. Knows no database, queue, settings or paths."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from service.catalogue.methods import MethodConfig
from service.catalogue.recipe import Recipe
from workers.architectures import ImageShape, build
from workers.evaluation.report import EvaluationSplits
from workers.samples import LabelledSet
from workers.training import Progress, no_progress
from workers.unlearning.interface import UnlearningSplits


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything a network is rebuilt from, beside its weights. `image_shape` is (C, H, W)."""

    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)
    image_shape: ImageShape
    num_classes: int
    recipe: Recipe = field(default_factory=Recipe)


def build_model(spec: ModelSpec, seed: int | None = None) -> nn.Module:
    """Build the network on the CPU, initialised by `seed` or by the recipe's."""
    return build(
        spec.architecture,
        spec.options,
        image_shape=spec.image_shape,
        num_classes=spec.num_classes,
        seed=spec.recipe.seed if seed is None else seed,
    )


def validate_parameters(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return every fault of a state dict for this network, an empty list when it fits."""
    raise NotImplementedError


def train_original(
    spec: ModelSpec,
    train_set: LabelledSet,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a fresh network by the recipe; return it in eval mode on `device`, with JSON-safe facts."""
    raise NotImplementedError


def erase(
    spec: ModelSpec,
    parent: nn.Module,
    unlearning_splits: UnlearningSplits,
    evaluation_splits: EvaluationSplits,
    *,
    method: str,
    config: MethodConfig | None = None,
    seed: int,
    max_accuracy_drop: float = 0.01,
    groups: Mapping[str, Tensor] | None = None,
    training_seconds: float | None = None,
    progress: Progress = no_progress,
) -> tuple[nn.Module, dict[str, Any]]:
    """Unlearn the forget set and measure the result; return the new model and the report.

    `groups` maps a request's name to positions in the forget set.
    """
    raise NotImplementedError
