"""Masked small gradients (MSG): ranked high by Cadet et al., Deep Unlearn, 2024, arXiv:2410.01276.

L_r, L_f: mean cross-entropy on the retain and on the forget set, at the original's weights. Per convolution theta:

    m = the `share` of entries of the smallest |grad L_r - grad L_f|
    theta <- m theta_fresh + (1 - m) theta                            once
    then epochs on L_r, the convolution's gradient times  m + damping (1 - m)

A reconstruction from the description. Ours, since it leaves them open:
- theta_fresh is a new network's own initialisation, so that the architecture's rule for it holds.
- Both gradients are of one pass in eval mode. Of equal entries the first go, so that the share is met exactly.
- Biases, norm layers and linear layers train on their full gradient; norm layers in train mode.
- Weight decay is not damped. The last epoch within the allowed drop of accuracy is returned.

On a small net the default share of 0.3 left most of a forgotten class known, and the default rate did not bring its
accuracy back; a larger share and rate did both (tests/unit/science/test_msg.py).
"""

import copy
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from service.catalogue.methods import MsgConfig
from workers.classification import device_of
from workers.reproducibility import derived_seed
from workers.unlearning.convolutions import kernels
from workers.unlearning.finetune import finetuning_epochs
from workers.unlearning.interface import Surroundings, UnlearningError, UnlearningResult, UnlearningSplits
from workers.unlearning.salun import forget_gradient
from workers.unlearning.selection import last_within
from workers.unlearning.trajectory import Trajectory, follow


def msg(model: nn.Module, splits: UnlearningSplits, config: MsgConfig, *, around: Surroundings) -> UnlearningResult:
    """Start a share of a copy's kernels anew and train it on the retain set; return its last epoch within the drop.

    Raises UnlearningError for a network without convolutions.
    """
    started = time.perf_counter()
    renewed = copy.deepcopy(model)
    masks = small_difference_masks(renewed, splits, config.share, around)
    trajectory = Trajectory(renewed, splits, around)
    verdict = follow(renewed, renewed_epochs(renewed, splits, config, masks, around), trajectory, config.epochs)
    return trajectory.result(renewed, last_within, verdict, started)


def small_difference_masks(
    model: nn.Module, splits: UnlearningSplits, share: float, around: Surroundings
) -> dict[str, Tensor]:
    """Return True, per kernel by name, where the gradients differ least. Raises UnlearningError without any kernel."""
    chosen = {id(w) for w in kernels(model)}
    if not chosen:
        raise UnlearningError("the network has no convolution, so MSG has nothing to mask; choose another method")
    kept, lost = (forget_gradient(model, part, around.task) for part in (splits.retain, splits.forget))
    names = [name for name, w in model.named_parameters() if id(w) in chosen]
    return {n: smallest((kept[n] / len(splits.retain) - lost[n] / len(splits.forget)).abs(), share) for n in names}


def smallest(sizes: Tensor, share: float) -> Tensor:
    """Return True at the smallest `share` of entries, at least one; of equal ones the first."""
    if not bool(torch.isfinite(sizes).all()):
        raise UnlearningError("the gradients are not finite, so no weight's differ less than another's")
    order = torch.sort(sizes.flatten(), stable=True).indices
    mask = torch.zeros_like(sizes, dtype=torch.bool).flatten()
    mask[order[: max(1, round(share * len(order)))]] = True
    return mask.view(sizes.shape)


def renewed_epochs(
    model: nn.Module, splits: UnlearningSplits, config: MsgConfig, masks: dict[str, Tensor], around: Surroundings
) -> Iterator[dict[str, float]]:
    """Start the masked weights of `model` anew, then move it by one epoch per item; yield the epoch's mean loss."""
    fresh = around.build_model(derived_seed(around.generator)).to(device_of(model))
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).copy_(torch.where(mask, fresh.get_parameter(name), model.get_parameter(name)))

    def damped_step(optimizer: Optimizer, objective: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        for name, mask in masks.items():
            gradient = model.get_parameter(name).grad
            if gradient is not None:
                gradient.mul_(torch.where(mask, 1.0, config.damping))
        optimizer.step()

    yield from finetuning_epochs(model, splits, config, around, step=damped_step)
