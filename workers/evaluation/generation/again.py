"""Attack again what earlier versions of a generation model had to forget: later work must not bring it back."""

from typing import Any

import torch
from torch import Tensor, nn

from workers.diffusion import Diffusion
from workers.evaluation.earlier import AUDITED, GONE, EarlierSet
from workers.evaluation.generation.losses import mean_loss, measured, membership
from workers.evaluation.intervals import Floats
from workers.evaluation.unseen_controls import draw_controls, in_rounds


def audit_again(
    model: nn.Module,
    earlier: EarlierSet,
    *,
    task: Diffusion,
    audit_losses: Floats,
    audit_labels: Tensor,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Return loss and the attack on it for the earlier set, or that its data is gone. JSON-safe."""
    shown = {"evaluation_id": earlier.evaluation_id, "num_samples": earlier.num_samples}
    if earlier.samples is None or not len(earlier.samples):
        return {**shown, "state": GONE, "metrics": []}
    losses, labels = measured(task, model, earlier.samples), earlier.samples.labels.cpu()
    pairs = draw_controls(labels, audit_labels, generator=generator)
    pairs = in_rounds(pairs, labels, audit_labels, generator=generator)
    results = [mean_loss("forget", losses.mean(1)), membership({"forget": losses, "audit": audit_losses}, pairs)]
    return {**shown, "state": AUDITED, "metrics": [result.to_dict() for result in results]}
