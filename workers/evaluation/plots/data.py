"""What the plots are drawn from: per-sample arrays and curves that are held in memory and never stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from workers.evaluation.intervals import Floats, Interval

MODELS = ("parent", "unlearned", "retrained")
SPLITS = ("retain", "forget", "unseen", "test")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured figure; `value` None when there is none, `ci95` None when it has no interval."""

    value: float | None
    ci95: Interval | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Relearned:
    """One model relearning one set, one entry per seed.

    losses[s] (T + 1,) is the mean loss in nats before each step, delays[s] the first step at the target or None.
    `reported` is the delay the report states, None when that is censored.
    """

    losses: tuple[Floats, ...]
    delays: tuple[int | None, ...]
    reported: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSeries:
    """What was measured of one model. Empty arrays, absent keys and None stand for what was not.

    phi, or whatever score the attack reads, and loss of the forget samples and of their unseen controls, (n,) each, in
    any order; accuracy by split. Of a generation model the first images drawn of each class, uint8 (k, C, H, W).
    """

    phi_forget: Floats = field(default_factory=lambda: np.empty(0))
    phi_unseen: Floats = field(default_factory=lambda: np.empty(0))
    loss_forget: Floats = field(default_factory=lambda: np.empty(0))
    loss_unseen: Floats = field(default_factory=lambda: np.empty(0))
    auc: Estimate = field(default_factory=lambda: Estimate(value=None))
    accuracy: Mapping[str, Estimate] = field(default_factory=dict)
    relearned_forget: Relearned | None = None
    relearned_unseen: Relearned | None = None
    images: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlotData:
    """Series by model: parent and unlearned, and retrained where there is one.

    `target_loss` is what relearning chases, None when it was not planned; `max_steps` is its cap. `score` is what the
    attack reads, `unit` that of losses, `gone` the forgotten classes of which nothing is left. `relearned_by` names the
    optimiser of the curves where the report has those of others too; `use` is where a wrecked model shows.
    """

    models: Mapping[str, ModelSeries]
    target_loss: float | None = None
    max_steps: int = 0
    score: str = "phi"
    unit: str = "nats"
    relearned_by: str = ""
    use: str = "see the accuracies"
    gone: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.models) - set(MODELS))
        if unknown:
            raise ValueError(f"unknown models {unknown}; known: {list(MODELS)}")

    def shown(self) -> dict[str, ModelSeries]:
        """Return the models in the order in which they are drawn: parent and unlearned always, retrained if given."""
        always = {name: self.models.get(name, ModelSeries()) for name in MODELS[:2]}
        return {**always, **{name: self.models[name] for name in MODELS[2:] if name in self.models}}
