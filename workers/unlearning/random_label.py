"""Random labels: the forget set is taught wrong labels beside the retain set.

The baseline of the field, e.g. Graves et al., Amnesiac Machine Learning, AAAI 2021, arXiv:2010.10981.

    minimise  CE(D_r; y) + CE(D_f; y'),   y' != y drawn evenly from the other classes       mean over both sets

Where this differs from the paper, or the paper leaves it open:
- A label is drawn anew every time a sample is met: one fixed wrong label would be memorised instead.
- Every step takes a retain batch and its share of the forget set, so that one epoch meets each sample of both
  once; the loss is the mean over both, as it were one set. Both pass through the net as one batch, norm layers
  and dropout in train mode.
- `tail_epochs` passes over the retain set alone follow, whose rate falls to 0 by a cosine: without them accuracy on
  a random subset of Fashion-MNIST fell by 6 points and did not come back.
- Left null, optimiser and rate follow the recipe, and the rewind chooses the epoch returned.
- What it means to be taught a label is the task's to say: for a diffusion model, to predict what that class predicts.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from service.catalogue.methods import RandomLabelConfig
from workers.samples import LabelledSet, joined, shuffled_batches
from workers.training import finite_mean, make_optimizer, set_rate, steps_per_epoch, take_step
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.selection import chooser_for
from workers.unlearning.steps import cycled_batches, planned_with_tail, rates_of_epoch, steps_for
from workers.unlearning.trajectory import Trajectory, follow

RECIPE_RATE_SHARE = 0.1

Step = Callable[[Optimizer, Tensor], None]
"""Take one step of the optimiser on a scalar objective."""


def random_label(
    model: nn.Module, splits: UnlearningSplits, config: RandomLabelConfig, *, around: Surroundings
) -> UnlearningResult:
    """Teach a copy random wrong labels and return the epoch that `rewind` chooses."""
    started = time.perf_counter()
    taught = copy.deepcopy(model)
    trajectory = Trajectory(taught, splits, around)
    epochs = random_label_epochs(taught, splits, config, around)
    repaired_after = config.epochs if config.tail_epochs else 0
    verdict = follow(taught, epochs, trajectory, planned_with_tail(config))
    return trajectory.result(taught, chooser_for(config.rewind, settled_after=repaired_after), verdict, started)


def random_label_epochs(
    model: nn.Module,
    splits: UnlearningSplits,
    config: RandomLabelConfig,
    around: Surroundings,
    *,
    step: Step = take_step,
    into_mode: Callable[[nn.Module], object] = nn.Module.train,
    rate_share: float = RECIPE_RATE_SHARE,
) -> Iterator[dict[str, float]]:
    """Move `model` by one epoch per item, each begun by `into_mode` and moved by `step`; yield its mean loss."""
    retain_count, forget_count = len(splits.retain), len(splits.forget)
    steps = steps_for(
        config, around.recipe, rate_share=rate_share, retain_count=retain_count, forget_count=forget_count
    )
    optimizer = make_optimizer(model.parameters(), steps)
    share = config.forget_batch_size or math.ceil(forget_count * steps.retain_batch_size / retain_count)
    cycled = cycled_batches(forget_count, min(share, forget_count), generator=around.generator)
    classes = around.task.classes(model, splits.forget)
    total = config.epochs + config.tail_epochs
    per_epoch = steps_per_epoch(retain_count, steps.retain_batch_size)
    for e in range(1, total + 1):
        rates = rates_of_epoch(e, per_epoch, config, steps.lr)
        into_mode(model)
        sums, met = [], 0
        batches = shuffled_batches(retain_count, steps.retain_batch_size, generator=around.generator)
        for rate, index in zip(rates, batches, strict=True):
            set_rate(optimizer, rate)
            batch = own = splits.retain.take(index)
            if e <= config.epochs:
                forgotten = splits.forget.take(next(cycled))
                own = joined(batch, forgotten)
                batch = joined(batch, with_wrong_labels(forgotten, classes, around.generator))
            losses = around.task.taught_loss(model, batch, own.labels)
            step(optimizer, losses.mean())
            sums.append(losses.detach().sum())
            met += len(batch)
        model.eval()
        around.progress("unlearn", e, total)
        yield {"loss": finite_mean(sums, met, f"random labels, epoch {e}")}


def with_wrong_labels(samples: LabelledSet, classes: int, generator: torch.Generator) -> LabelledSet:
    """Return the samples with labels drawn evenly from the classes that are not theirs."""
    shift = torch.randint(1, classes, samples.labels.shape, generator=generator).to(samples.device)
    return LabelledSet(images=samples.images, labels=(samples.labels + shift) % classes)
