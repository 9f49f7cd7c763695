"""Train an ensemble in shards and slices: the training half of SISA.

Bourtoule et al., Machine Unlearning, S&P 2021, arXiv:1912.03817. Each shard has a network of its own, which never sees
a sample of another shard. Stage r trains it on slices 1..r, starting from the weights that stage r - 1 left; the
weights before each stage are kept, so that a slice can be taken back. Everything about a stage (its samples and their
order, its seed, a fresh optimiser and schedule) follows from the seed, the shard, the stage, and the samples of
slices 1..r: what a sample never entered, its removal leaves bit for bit as it was.

Ours where the paper leaves it open:
- Slices and shards are drawn by a hash of the sample's position, not cut to equal size: cutting would move samples
  when others are erased. A slice may be empty: its stage trains once more on the slices before it.
- A stage whose slices hold fewer than two samples trains nothing, since batch norm cannot be trained on one: a shard
  without samples keeps its initialisation, and still counts in the average.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.catalogue.recipe import Recipe, Sharding
from workers.architectures.ensemble import Ensemble
from workers.classification import Classification
from workers.reproducibility import deterministic, generator_for
from workers.samples import LabelledSet
from workers.sharding import Places, places_of, stage_seed
from workers.training import EmptySetError, Progress, TrainingError, no_progress, train
from workers.training_state import NO_JOURNAL, Journal

LEAST_SAMPLES = 2


class TooManyShardsError(TrainingError):
    """No shard holds the two samples that training needs."""


class NotPlacedError(ValueError):
    """A model trained in shards needs to know where each sample stands in its dataset, each position once."""


@dataclass(frozen=True, kw_only=True)
class ShardEpoch:
    """One pass over slices 1..`slice` of a shard: how many samples that are, and their mean loss in nats."""

    shard: int
    slice: int
    samples: int
    loss: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardedTraining:
    """The epochs in the order they were run, and the weights before each stage run from the second on, on the CPU.

    Checkpoints are named `shard.<shard>.slice.<stage>.<name>`.
    """

    epochs: tuple[ShardEpoch, ...]
    checkpoints: Mapping[str, Tensor]

    @property
    def sample_passes(self) -> int:
        """Return how many samples were trained on, each once per epoch."""
        return sum(epoch.samples for epoch in self.epochs)

    @property
    def final_loss(self) -> float:
        """Return the mean loss of each shard's last epoch, weighted by its samples."""
        last = {epoch.shard: epoch for epoch in self.epochs}.values()
        return sum(epoch.loss * epoch.samples for epoch in last) / sum(epoch.samples for epoch in last)


def sharding_of(recipe: Recipe) -> Sharding:
    """Return the recipe's shards and slices. Raises ValueError where it has none."""
    if recipe.sisa is None:
        raise ValueError("the recipe has no sisa: its model is not trained in shards")
    return recipe.sisa


def epochs_per_stage(recipe: Recipe) -> int:
    """Return e, the epochs of each of the R stages, so that all pass over as many samples as e' plain epochs.

    Stage r passes over r/R of the D samples e times: sum over r of e r D / R = e D (R + 1) / 2 = e' D, therefore
    e = 2 e' / (R + 1), as in the paper; rounded to the nearest, half up, and at least 1.
    """
    stages = sharding_of(recipe).slices + 1
    return max(1, (2 * recipe.epochs + stages // 2) // stages)


def train_sharded(
    ensemble: Ensemble,
    samples: LabelledSet,
    recipe: Recipe,
    *,
    positions: Tensor,
    seed: int,
    task: Classification,
    start: Mapping[int, int] | None = None,
    progress: Progress = no_progress,
    phase: str = "train",
    journal: Journal = NO_JOURNAL,
) -> ShardedTraining:
    """Train the networks of `ensemble` in place by the recipe, each on its shard of `samples`.

    `positions`, int64 (n,), are the samples' in their dataset. They decide the shards together with the recipe's own
    seed, so that these are the same for every training of a model; `seed` is this training's. `start` maps each
    shard to train to its first stage, whose weights the network then has to hold; by default all start at stage 1.
    The result depends on the set of samples, not on their order. Leaves the ensemble in eval mode. `journal` keeps
    each stage as a part.
    Raises NotPlacedError, EmptySetError, TooManyShardsError, and NonFiniteLossError like workers.training.train.
    """
    sharding = sharding_of(recipe)
    _refuse(samples, positions)
    stages = _stages(places_of(positions, sharding, seed=recipe.seed), positions, sharding)
    first = dict.fromkeys(range(sharding.shards), 1) if start is None else start
    own = recipe.model_copy(update={"epochs": epochs_per_stage(recipe), "sisa": None})
    due = [stage for stage in stages if stage.number >= first.get(stage.shard, sharding.slices + 1)]
    total = own.epochs * sum(stage.trains for stage in due)
    final = next((stage for stage in reversed(due) if stage.trains), None)
    epochs: list[ShardEpoch] = []
    checkpoints: dict[str, Tensor] = {}
    for stage in due:
        net = ensemble.nets[stage.shard]
        if stage.number > 1:
            checkpoints |= stage.named(net.state_dict())
        if stage.trains:
            told = _continued(progress, len(epochs), total)
            kept = _Kept(journal=journal, last=stage is final)
            epochs += _train_stage(net, stage, samples, own, kept, seed=seed, task=task, progress=told, phase=phase)
    ensemble.eval()
    return ShardedTraining(epochs=tuple(epochs), checkpoints=checkpoints)


def checkpoint_of(checkpoints: Mapping[str, Tensor], net: nn.Module, shard: int, stage: int) -> dict[str, Tensor]:
    """Return the state dict that a shard's network had before the stage, from the second on. Raises KeyError."""
    return {name: checkpoints[checkpoint_prefix(shard, stage) + name] for name in net.state_dict()}


def checkpoint_prefix(shard: int, stage: int) -> str:
    """Return what the names of a checkpoint's tensors start with."""
    return f"shard.{shard}.slice.{stage}."


@dataclass(frozen=True, kw_only=True, eq=False)
class _Stage:
    """A stage and the rows of the samples in slices 1..`number` of its shard, in the order of their positions."""

    shard: int
    number: int
    rows: Tensor

    @property
    def trains(self) -> bool:
        return len(self.rows) >= LEAST_SAMPLES

    @property
    def name(self) -> str:
        return f"shard.{self.shard}.stage.{self.number}"

    def named(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prefix = checkpoint_prefix(self.shard, self.number)
        return {prefix + name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def epoch(self, loss: float) -> ShardEpoch:
        return ShardEpoch(shard=self.shard, slice=self.number, samples=len(self.rows), loss=loss)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """Who keeps a stage. `last`: it is the last of the training."""

    journal: Journal
    last: bool


def _stages(places: Places, positions: Tensor, sharding: Sharding) -> list[_Stage]:
    """Return every stage, shard by shard. Raises TooManyShardsError where none could train."""
    stages = list(_each_stage(places, positions.cpu().argsort(), sharding))
    if not any(stage.trains for stage in stages):
        raise TooManyShardsError(
            f"none of {sharding.shards} shards holds {LEAST_SAMPLES} of the {len(positions)} samples; "
            "register a model with fewer shards"
        )
    return stages


def _each_stage(places: Places, order: Tensor, sharding: Sharding) -> Iterator[_Stage]:
    for shard in range(sharding.shards):
        mine = order[places.shard[order] == shard]
        for number in range(1, sharding.slices + 1):
            yield _Stage(shard=shard, number=number, rows=mine[places.slice[mine] <= number])


def _train_stage(
    net: nn.Module,
    stage: _Stage,
    samples: LabelledSet,
    recipe: Recipe,
    kept: _Kept,
    *,
    seed: int,
    task: Classification,
    progress: Progress,
    phase: str,
) -> list[ShardEpoch]:
    before = kept.journal.finished(stage.name)
    if before is not None:
        net.load_state_dict(dict(before.tensors))
        return [stage.epoch(loss) for loss in before.facts["losses"]]
    own = stage_seed(seed, shard=stage.shard, stage=stage.number)
    part, generator = samples.take(stage.rows), generator_for(own)
    # dropout draws from torch's own random state, which therefore starts anew in each stage
    with deterministic(own):
        history = train(
            net,
            part,
            recipe,
            task=task,
            generator=generator,
            progress=progress,
            phase=phase,
            keeper=kept.journal.part(stage.name),
        )
    said = {"losses": list(history.epoch_losses)}
    kept.journal.finish(stage.name, net.state_dict(), said, epochs=recipe.epochs, last=kept.last)
    return [stage.epoch(loss) for loss in history.epoch_losses]


def _refuse(samples: LabelledSet, positions: Tensor) -> None:
    if not len(samples):
        raise EmptySetError("no sample to train on")
    if positions.dtype != torch.int64 or positions.shape != (len(samples),):
        raise NotPlacedError(
            f"positions must be int64 ({len(samples)},), not {positions.dtype} {tuple(positions.shape)}"
        )
    if len(torch.unique(positions)) != len(positions):
        raise NotPlacedError("two samples stand at the same position")


def _continued(progress: Progress, before: int, total: int) -> Progress:
    return lambda phase, done, _total: progress(phase, before + done, total)
