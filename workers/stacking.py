"""Decide how many copies of a network are trained at once: memory, device, and whether it can be vectorised at all."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from workers.classification import Classification, device_of
from workers.micro_batches import is_split
from workers.samples import LabelledSet
from workers.stacked_training import Lesson, Stack

Way = Literal["stacked", "plain"]
PROBE_SAMPLES = 4
STATES_PER_COPY = 5
PASSES_PER_COPY = 3
# Relative, in norm: rounding stays far below, a rule that mixes copies or loses an update far above.
TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class StackingPlan:
    """Say how copies are trained: `at_once` together, 1 when one after the other, and why."""

    way: Way
    at_once: int
    reason: str


def plan_stacking(
    model: nn.Module,
    samples: LabelledSet,
    *,
    copies: int,
    batch_size: int,
    budget_bytes: int,
    task: Classification,
    way: Way | None = None,
) -> StackingPlan:
    """Decide how copies of `model` are trained; the samples lie on its device, and `model` is not changed.

    Without a `way`, CUDA stacks and a CPU does not: there a stack's grouped convolutions take longer than the
    copies one after the other. Stacking is given up, whoever asked for it, when less than two copies fit into
    `budget_bytes` or when the network cannot be vectorised.
    """
    if way is None and device_of(model).type == "cpu":
        return StackingPlan(way="plain", at_once=1, reason="one after the other is faster on a CPU")
    if way == "plain":
        return StackingPlan(way="plain", at_once=1, reason="asked for")
    if is_split():
        return StackingPlan(way="plain", at_once=1, reason="the memory does not hold a whole batch")
    size = stacked_size(model, samples, batch_size=batch_size, budget_bytes=budget_bytes, task=task)
    if size < 2:
        return StackingPlan(way="plain", at_once=1, reason="two copies do not fit into the memory budget")
    fault = why_not_stacked(model, samples, task=task)
    if fault is not None:
        return StackingPlan(way="plain", at_once=1, reason=fault)
    reason = "asked for" if way else "stacking is faster on this device"
    return StackingPlan(way="stacked", at_once=min(copies, size), reason=reason)


def stacked_size(
    model: nn.Module, samples: LabelledSet, *, batch_size: int, budget_bytes: int, task: Classification
) -> int:
    """Return how many copies fit into the budget, perhaps 0.

    A copy takes its state five times (weights, gradients, two moments, what a step makes in passing) and, for a
    batch, three times what the forward pass keeps for the backward pass, which is counted on a few samples.
    """
    lesson, batch = Lesson(copy.deepcopy(model).train(), task), _probe_batch(samples)
    state = {tensor.untyped_storage().data_ptr() for tensor in lesson.state_dict().values()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in state:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with own_random_state(model), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        lesson(batch.images, batch.labels).sum()
    activations = sum(kept.values()) * batch_size / max(1, len(batch))
    weights = sum(tensor.nbytes for tensor in lesson.state_dict().values())
    return int(budget_bytes // (STATES_PER_COPY * weights + PASSES_PER_COPY * activations))


def why_not_stacked(
    model: nn.Module, samples: LabelledSet, *, task: Classification, training: bool = True
) -> str | None:
    """Return why copies of the network cannot be trained stacked, or None when they can.

    Tries: losses, gradients and buffers of two different copies must come out as from the copies alone, with
    dropout off, in train mode or else in eval mode. An operation without a batching rule counts as a fault, since it
    would run copy by copy.
    """
    models = [_without_dropout(copy.deepcopy(model)) for _ in range(2)]
    with torch.no_grad():
        for weight in models[1].parameters():
            weight.mul_(1.25)
    batch = _probe_batch(samples)
    # the second copy has the samples in reverse
    images, labels = (torch.stack((part, part.flip(0))) for part in (batch.images, batch.labels))
    try:
        with own_random_state(model), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*batching rule")
            found = _stacked_step(models, images, labels, task, training=training)
    except (RuntimeError, ValueError, TypeError, AttributeError, UserWarning) as error:
        return f"the network cannot be vectorised ({type(error).__name__})"
    with own_random_state(model):
        alone = [_step(each.train(training), images[row], labels[row], task) for row, each in enumerate(models)]
    same = (found.keys() == tensors.keys() and _all_close(found, tensors, row) for row, tensors in enumerate(alone))
    return None if all(same) else "the vectorised network differs from its copies"


@contextmanager
def own_random_state(model: nn.Module) -> Iterator[None]:
    """Leave the global random state, which dropout draws from, as it was."""
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _probe_batch(samples: LabelledSet) -> LabelledSet:
    return samples.take(torch.arange(min(len(samples), PROBE_SAMPLES)))


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    return model


def _stacked_step(
    models: list[nn.Module], images: Tensor, labels: Tensor, task: Classification, *, training: bool
) -> dict[str, Tensor]:
    stack = Stack(models, task, training=training)
    loss = stack.losses(images, labels)
    loss.mean(1).sum().backward()  # type: ignore[no-untyped-call]
    return {"loss": loss.detach(), **_gradients(stack.parameters), **stack.buffers}


def _step(model: nn.Module, images: Tensor, labels: Tensor, task: Classification) -> dict[str, Tensor]:
    lesson = Lesson(model, task)
    loss = lesson(images, labels)
    loss.mean().backward()
    return {"loss": loss.detach(), **_gradients(dict(lesson.named_parameters())), **dict(lesson.named_buffers())}


def _gradients(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in parameters.items() if weight.grad is not None}


def _all_close(stacked: Mapping[str, Tensor], alone: Mapping[str, Tensor], row: int) -> bool:
    gaps = [
        (float((stacked[name][row] - one).double().norm()), float(one.double().norm())) for name, one in alone.items()
    ]
    # a gradient that is 0 but for rounding, as a bias before batch norm has, is measured by the largest
    largest = max(norm for _, norm in gaps)
    return all(gap <= TOLERANCE * norm + 1e-5 * largest for gap, norm in gaps)
