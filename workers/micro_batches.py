"""Splits the passes of a network into micro-batches where the memory does not hold a batch at once.

The split is below the task's forward pass, so no method or metric knows of it. With gradients, each micro-batch is
forgotten after its forward pass and done again for its backward pass (Chen et al., arXiv:1604.06174): the gradients of
the parts add up in the weights to that of the batch, whatever the loss makes of the logits, at the price of a second
forward pass. Without norm layers in train mode the result differs by rounding alone. Batch norm there takes its
statistics from each micro-batch; its running averages move as far in a batch as they would have in one step.
"""

import errno
import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")
_CPU_ALLOCATOR = "DefaultCPUAllocator"
_FAILURES = (RuntimeError, MemoryError, OSError)


class OutOfMemoryError(RuntimeError):
    """The memory does not suffice, whatever the batch is split into."""


@dataclass(kw_only=True)
class Split:
    """What passes are split into; None: not at all. ``largest``: the largest pass of each kind that was given whole."""

    micro_batch: int | None = None
    evaluation_batch: int | None = None
    halvings: int = 0
    evaluation_halvings: int = 0
    measuring: bool = False
    """Only reads from now on: a pass without gradients that fails is tried again by itself."""
    largest: int = 0
    largest_evaluation: int = 0
    _evaluated_last: bool = False

    def halve(self) -> bool:
        """Halve what the last pass was split into; False where it cannot be halved any more, or was no pass."""
        if self._evaluated_last:
            at = self.evaluation_batch or self.largest_evaluation
            if at < 2:
                return False
            self.evaluation_batch, self.evaluation_halvings = at // 2, self.evaluation_halvings + 1
        else:
            at = self.micro_batch or self.largest
            if at < 2:
                return False
            self.micro_batch, self.halvings = at // 2, self.halvings + 1
        return True

    def adopt(self, kept: Mapping[str, int | None]) -> bool:
        """Split as a training did that is gone on with; False where batches are split already, and otherwise."""
        if self.micro_batch is None:
            self.micro_batch, self.halvings = kept["micro_batch"], kept["halvings"] or 0
        return self.micro_batch == kept["micro_batch"]

    def account(self) -> dict[str, Any] | None:
        """Return what is told of it in the report; None where every batch fitted."""
        if self.micro_batch is None and self.evaluation_batch is None:
            return None
        return {
            "micro_batch_size": self.micro_batch,
            "halvings": self.halvings,
            "evaluation_batch_size": self.evaluation_batch,
            "evaluation_halvings": self.evaluation_halvings,
        }

    def size_for(self, images: Tensor) -> int:
        """Return how many images go through at once, and remember which kind of pass this is."""
        self._evaluated_last = not torch.is_grad_enabled()
        most = self.evaluation_batch if self._evaluated_last else self.micro_batch
        size = min(len(images), most or len(images))
        if self._evaluated_last:
            self.largest_evaluation = max(self.largest_evaluation, size)
        else:
            self.largest = max(self.largest, size)
        return size


_CURRENT: ContextVar[Split | None] = ContextVar("split", default=None)


@contextmanager
def splitting(split: Split) -> Iterator[None]:
    """Split the passes within, as ``split`` says at the moment of each."""
    token = _CURRENT.set(split)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def at_most(size: int) -> int:
    """Return the size of parts for work that splits its batch itself: ``size``, or less where that did not fit."""
    split = _CURRENT.get()
    if split is None:
        return size
    split.largest, split._evaluated_last = max(split.largest, size), False
    return min(size, split.micro_batch or size)


def is_split() -> bool:
    """Say whether training batches did not fit whole."""
    split = _CURRENT.get()
    return split is not None and split.micro_batch is not None


def in_parts(forward: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor) -> Tensor:
    """Return what `forward` makes of `images` with `model`, part by part where they do not fit at once."""
    split = _CURRENT.get()
    if split is None:
        return forward(images)
    size = split.size_for(images)
    # Copies trained as one are not split, but trained one after the other instead (`is_split`).
    if torch._C._functorch.is_functorch_wrapped_tensor(images):
        return forward(images)
    if torch.is_grad_enabled():
        return _with_gradients(forward, model, images, size)
    while True:
        try:
            return (
                torch.cat([forward(part) for part in _parts(images, size)]) if size < len(images) else forward(images)
            )
        except _FAILURES as error:
            # Norm layers in train mode have counted part of the batch already, so it cannot be done again by itself.
            if model.training or not split.measuring or not is_out_of_memory(error) or not split.halve():
                raise
        release_memory()
        size = split.size_for(images)


def surviving(work: Callable[[], T], split: Split) -> T:
    """Return what `work` does, done anew with smaller parts as often as it takes. Raises OutOfMemoryError."""
    while True:
        try:
            with splitting(split):
                return work()
        except _FAILURES as error:
            if not is_out_of_memory(error):
                raise
            if not split.halve():
                raise OutOfMemoryError(_told(split)) from None
        # Outside the clause, where the error's trace no longer holds the tensors that filled the memory.
        split.measuring = False
        release_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory ran out, of whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)


def release_memory() -> None:
    """Give back what a failed pass left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _told(split: Split) -> str:
    tried = split.halvings + split.evaluation_halvings
    what = f"even after halving the batch {tried} times" if tried else "before any batch was taken"
    return (
        f"The device's memory does not suffice, {what}. Use a device with more memory, free what else uses it, or "
        "register the model with a smaller network; then retry the job."
    )


def _parts(images: Tensor, size: int, *, least: int = 1) -> tuple[Tensor, ...]:
    """Split as evenly as can be into parts of `size` or less, though none of less than `least`."""
    count = min(math.ceil(len(images) / size), max(1, len(images) // least))
    return torch.tensor_split(images, count)


def _with_gradients(forward: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor, size: int) -> Tensor:
    if size >= len(images):
        return forward(images)
    norms = _counting_norms(model)
    # Batch norm cannot be trained on one sample.
    parts = _parts(images, size, least=2 if norms else 1)
    as_now = [(module, module.training) for module in model.modules()]
    run = partial(_forgotten, forward, as_now, norms, len(parts))
    return torch.cat([run(part, counts=place == 0) for place, part in enumerate(parts)])


def _forgotten(
    forward: Callable[[Tensor], Tensor],
    modes: list[tuple[nn.Module, bool]],
    norms: list[_NormBase],
    count: int,
    part: Tensor,
    *,
    counts: bool,
) -> Tensor:
    """Return the outputs of a part, keeping nothing of the way there: the backward pass goes it again."""
    done = False

    def run(images: Tensor) -> Tensor:
        nonlocal done
        again, done = done, True
        share = 0.0 if again else 1 / count
        with _in_modes(modes), _averaging(norms, share=share, counts=counts and not again):
            return forward(images)

    found: Tensor = checkpoint(run, part, use_reentrant=False)
    return found


@contextmanager
def _in_modes(modes: list[tuple[nn.Module, bool]]) -> Iterator[None]:
    """Put each module in the mode it had in the forward pass: a method may have changed it before the backward pass."""
    before = [(module, module.training) for module, _ in modes]
    for module, training in modes:
        module.training = training
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _counting_norms(model: nn.Module) -> list[_NormBase]:
    """Return the norm layers whose running statistics a pass would move."""
    layers = (module for module in model.modules() if isinstance(module, _NormBase))
    return [layer for layer in layers if layer.training and layer.running_mean is not None]


@contextmanager
def _averaging(norms: list[_NormBase], *, share: float, counts: bool) -> Iterator[None]:
    """Have a pass move the running statistics by a share of a whole batch's; ``counts``: and the count of batches.

    The shares of a batch's parts compound to what one pass would do: (1 - m)^share of the old value is kept.
    """
    before = [(layer.momentum, None if counts else _count_of(layer)) for layer in norms]
    for layer in norms:
        if layer.momentum is not None:
            layer.momentum = 1 - (1 - layer.momentum) ** share
        elif share == 0.0:
            layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(norms, before, strict=True):
            layer.momentum = momentum
            if count is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(count)


def _count_of(layer: _NormBase) -> Tensor | None:
    return None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone()
