"""Diagonal importance of the weights: the mean over samples of the size of each sample's gradient.

    F_theta = (1/N) sum over n of | d score(x_n, y_n) / d theta |^power          eval mode

Where the task draws noise, the mean is over the draws of each sample as well: those that every network is measured on.
Gradients are per sample (torch.func, vmap over grad). The square or size of a batch's mean gradient, which much
public code takes in their place, shrinks as the batch grows. No loop runs over samples: only over chunks, whose size
a memory budget sets and on which the result does not depend.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from workers.classification import evaluating
from workers.micro_batches import at_most
from workers.samples import LabelledSet
from workers.task import Inputs, Task

Importance = Mapping[str, Tensor]
"""By the name of each parameter, float64, of its shape."""

DEFAULT_BUDGET = 512 * 2**20
"""Bytes that one chunk may take, by estimate."""
LIVE_COPIES = 4
"""Times that an activation is held: forward, backward, and unfolded by the convolutions of a batch of gradients."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Say what is differentiated and the power of the gradient's size that is averaged.

    `of_outputs` takes the network's outputs and labels (N,) to a number per sample (N,).
    """

    of_outputs: Callable[[Task, Tensor, Tensor], Tensor]
    power: Literal[1, 2]


def loss_of_outputs(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the task's loss (N,)."""
    return task.loss_of_outputs(outputs, labels)


def squared_output(_task: Task, logits: Tensor, _labels: Tensor) -> Tensor:
    """Return ||f(x)||_2^2 (N,), which needs no label."""
    return logits.square().sum(1)


LOSS = Score(of_outputs=loss_of_outputs, power=2)
"""Its importance is the diagonal of the empirical Fisher information."""
OUTPUT = Score(of_outputs=squared_output, power=1)
"""How far the output's squared norm moves with each weight; labels have no part in it."""
SCORES: dict[str, Score] = {"loss": LOSS, "output": OUTPUT}


def diagonal_importance(
    model: nn.Module,
    samples: LabelledSet,
    task: Task,
    *,
    score: Score = LOSS,
    budget: int = DEFAULT_BUDGET,
    chunk: int | None = None,
    told: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Return F over `samples`, which must not be empty; the model keeps its modes and is not changed.

    `chunk` is how many samples' gradients are held at once; left out, as many as `budget` bytes allow. `told` is
    called after each chunk with the samples done and their number.
    """
    weights = {name: w.detach() for name, w in model.named_parameters()}
    rest = {name: b.detach() for name, b in model.named_buffers()}

    def of_one(w: dict[str, Tensor], inputs: Inputs, label: Tensor) -> Tensor:
        def network(*given: Tensor) -> Tensor:
            answer: Tensor = functional_call(model, (w, rest), given)
            return answer

        outputs = task.forward(network, tuple(each[None] for each in inputs))
        return score.of_outputs(task, outputs, label[None]).sum()

    per_sample = vmap(grad(of_one), in_dims=(None, 0, 0), randomness="error")
    sums = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}
    example = task.view(model, samples.images[:1], samples.labels[:1], 0)
    size = at_most(min(len(samples), chunk or chunk_size(task, model, example, budget)))
    # modes are set by hand: `evaluating` would also turn gradients off
    done = 0
    with evaluating(model), torch.enable_grad():
        for images, labels in zip(torch.split(samples.images, size), torch.split(samples.labels, size), strict=True):
            for number in range(task.views):
                gradients = per_sample(weights, task.view(model, images, labels, number), labels)
                for name, g in gradients.items():
                    sums[name] += (g.square() if score.power == 2 else g.abs()).sum(0, dtype=torch.float64)
            done += len(labels)
            if told is not None:
                told(done, len(samples))
    return {name: total / (len(samples) * task.views) for name, total in sums.items()}


def chunk_size(task: Task, model: nn.Module, example: Inputs, budget: int) -> int:
    """Return how many samples fit into `budget` bytes, at least one; `example` is the input of one.

    A sample takes its gradients, their sizes, and what its passes keep: LIVE_COPIES of every module's output.
    """
    kept = 0

    def count(_module: nn.Module, _given: object, output: object) -> None:
        nonlocal kept
        kept += output.numel() * output.element_size() if isinstance(output, Tensor) else 0

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    try:
        with evaluating(model):
            task.forward(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    gradients = sum(2 * w.numel() * w.element_size() for w in model.parameters())
    return max(1, budget // (gradients + LIVE_COPIES * kept))


def pooled(first: Importance, count: int, second: Importance, other_count: int) -> dict[str, Tensor]:
    """Return the importance over two disjoint sets together, from that of each and their sizes."""
    share = count / (count + other_count)
    return {name: share * first[name] + (1 - share) * second[name] for name in first}
