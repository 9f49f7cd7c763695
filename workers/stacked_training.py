"""Train several copies of one network, each on its own samples, in one vectorised step or one after the other.

Both ways take the batches of workers.training.train, so that their weights differ by rounding alone. The
optimiser sees one parameter per layer with a copy per row: its rules act on each element, so rows never mix.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.samples import LabelledSet, shuffled_batches
from workers.training import (
    EmptySetError,
    Progress,
    TrainingHistory,
    finite_mean,
    make_optimizer,
    no_progress,
    rate_factor,
    steps_per_epoch,
    take_step,
    train,
)
from workers.training_state import NO_JOURNAL, Journal, Keeper, TrainingState


class Lesson(nn.Module):
    """A network whose forward pass is the task's loss per sample, so that the task's own path is vectorised."""

    def __init__(self, net: nn.Module, task: Classification) -> None:
        super().__init__()
        self.net, self.task = net, task

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (N,) in nats of uint8 images."""
        return self.task.per_sample_loss(self.net, images, labels)


class Stack:
    """Parameters and buffers of k networks of one architecture, a copy per row, named as in a Lesson.

    The networks keep their own weights until `write_back`.
    """

    def __init__(self, models: Sequence[nn.Module], task: Classification, *, training: bool = True) -> None:
        lessons = [Lesson(model.train(training), task) for model in models]
        self.parameters, self.buffers = stack_module_state(lessons)
        self._lessons = lessons
        self._skeleton = copy.deepcopy(lessons[0]).to("meta")
        # Norm layers write their buffers in place: vmap allows it, since every copy has a row of its own.
        self._losses = vmap(self._one, randomness="different")

    def _one(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], *batch: Tensor) -> Tensor:
        return functional_call(self._skeleton, ({**parameters}, {**buffers}), batch)  # type: ignore[no-any-return]

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (k, B) of each copy on its own batch, images (k, B, C, H, W)."""
        return self._losses(self.parameters, self.buffers, images, labels)

    def write_back(self) -> None:
        """Copy each row into its network, and leave that in eval mode."""
        state = {**self.parameters, **self.buffers}
        with torch.no_grad():
            for row, lesson in enumerate(self._lessons):
                for name, tensor in [*lesson.named_parameters(), *lesson.named_buffers()]:
                    tensor.copy_(state[name][row])
                lesson.net.eval()


@dataclass(frozen=True, kw_only=True, eq=False)
class Copy:
    """A network, the positions of its samples, int64 (n,), and the CPU generator its batches are drawn with."""

    model: nn.Module
    rows: Tensor
    generator: torch.Generator


def train_copies(
    copies: Sequence[Copy],
    samples: LabelledSet,
    recipe: Recipe,
    *,
    task: Classification,
    at_once: int,
    progress: Progress = no_progress,
    phase: str = "train",
    journal: Journal = NO_JOURNAL,
) -> tuple[TrainingHistory, ...]:
    """Train each copy in place on its own rows of `samples`, which lie on the models' device.

    With `at_once` 1 the copies are trained one after the other, by workers.training.train. Copies with unequal
    numbers of rows are never stacked with each other: they may take unequal numbers of steps. Progress counts the
    epochs of all copies together. Leaves the models in eval mode. `journal` keeps those trained at once as a part.
    Raises EmptySetError, and NonFiniteLossError at the end of the epoch in which any copy's loss is not finite.
    """
    if not all(len(each.rows) for each in copies):
        raise EmptySetError("no sample to train on")
    histories: dict[int, TrainingHistory] = {}
    for members in _groups([len(each.rows) for each in copies], at_once):
        told = _counting_all(progress, len(histories), len(members), len(copies))
        group, keeper = [copies[i] for i in members], journal.part("-".join(map(str, members)))
        way = _train_stack if len(group) > 1 else _train_one
        found = way(group, samples, recipe, task=task, progress=told, phase=phase, keeper=keeper)
        histories.update(zip(members, found, strict=True))
    return tuple(histories[i] for i in range(len(copies)))


def _counting_all(progress: Progress, trained: int, at_once: int, copies: int) -> Progress:
    def told(phase: str, epoch: int, epochs: int) -> None:
        progress(phase, trained * epochs + at_once * epoch, copies * epochs)

    return told


def _groups(sizes: Sequence[int], at_once: int) -> list[list[int]]:
    """Return positions of equal size, `at_once` or fewer together."""
    groups = []
    for size in sorted(set(sizes)):
        members = [i for i, found in enumerate(sizes) if found == size]
        groups += [members[start : start + at_once] for start in range(0, len(members), at_once)]
    return groups


def _train_one(
    copies: Sequence[Copy],
    samples: LabelledSet,
    recipe: Recipe,
    *,
    task: Classification,
    progress: Progress,
    phase: str,
    keeper: Keeper,
) -> list[TrainingHistory]:
    (one,) = copies
    return [
        train(
            one.model,
            samples.take(one.rows),
            recipe,
            task=task,
            generator=one.generator,
            progress=progress,
            phase=phase,
            keeper=keeper,
        )
    ]


def _train_stack(
    copies: Sequence[Copy],
    samples: LabelledSet,
    recipe: Recipe,
    *,
    task: Classification,
    progress: Progress,
    phase: str,
    keeper: Keeper,
) -> list[TrainingHistory]:
    """Take the steps of workers.training.train with every copy at once."""
    stack, rows = Stack([each.model for each in copies], task), torch.stack([each.rows for each in copies])
    optimizer = make_optimizer(stack.parameters.values(), recipe)
    state = TrainingState(
        tensors={**stack.parameters, **stack.buffers},
        optimizer=optimizer,
        generators=[each.generator for each in copies],
    )
    losses: list[list[float]] = keeper.restore(state)
    count = rows.shape[1]
    step = len(losses) * steps_per_epoch(count, recipe.batch_size)
    for epoch in range(len(losses), recipe.epochs):
        orders = [list(shuffled_batches(count, recipe.batch_size, generator=c.generator)) for c in copies]
        sums: list[Tensor] = []
        for parts in zip(*orders, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * rate_factor(recipe.schedule, step, recipe.epochs * len(orders[0]))
            batch = rows.gather(1, torch.stack(parts)).to(samples.device)
            loss = stack.losses(samples.images[batch], samples.labels[batch])
            # the sum over copies gives each its own gradient: no copy's loss depends on another's weights
            take_step(optimizer, loss.mean(1).sum())
            sums.append(loss.detach().sum(1))
            step += 1
        means = torch.stack(sums).unbind(1)
        losses.append([finite_mean([*mean], count, f"{phase} epoch {epoch + 1}") for mean in means])
        progress(phase, epoch + 1, recipe.epochs)
        keeper.epoch_ended(state, losses, epochs=recipe.epochs)
    stack.write_back()
    return [TrainingHistory(epoch_losses=epochs) for epochs in zip(*losses, strict=True)]
