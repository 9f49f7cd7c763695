"""The classifier that says what a drawn image shows, and whose features distances are taken in.

It is trained on the selection and the population pool: no version was trained on them, no forget set has a sample of
them, and every class is there whatever is forgotten, so that one classifier measures every request alike. How well it
does is read on the audit pool, which it never sees. Nothing of it is stored; the child keeps the last one in memory,
by the digest of what it was trained on, which changes when a sample of the pools is erased.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from service.catalogue.recipe import Recipe
from workers.architectures import build
from workers.architectures.small_cnn import SmallCnn
from workers.classification import Classification, evaluating
from workers.evaluation.intervals import Floats, wilson
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.training import train

WIDTH, SEED, BATCH = 16, 0, 64
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 400, 6, 20
TRUSTED = 0.8
"""Below this share of real images recognised, what the classifier says of drawn ones is inconclusive."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recogniser:
    """A classifier in eval mode and on how many images it was trained."""

    model: SmallCnn
    trained_on: int

    def look(self, images: Tensor, batch_size: int = 512) -> tuple[Tensor, Floats]:
        """Return the class (N,), int64, and the penultimate features (N, d) of uint8 images, both on the CPU."""
        task, classes, features = Classification(), [], []
        with evaluating(self.model):
            for part in torch.split(images, batch_size):
                found = self.model.features(task.inputs(part)).mean((2, 3))
                features.append(found.double().cpu())
                classes.append(self.model.head(found).argmax(1).cpu())
        return torch.cat(classes), torch.cat(features).numpy()

    def recognised(self, samples: LabelledSet) -> Tensor:
        """Return bool (N,), on the CPU: is the class that it sees the label's?"""
        return self.look(samples.images)[0] == samples.labels.cpu()


_AT_HAND: dict[str, Recogniser] = {}


def recogniser_for(samples: LabelledSet, *, num_classes: int) -> Recogniser | None:
    """Return the classifier of the pools' samples, the one at hand where they are the same; None without any of them.

    Its weights depend on the samples alone: equal ones give an equal classifier on one device.
    """
    if not len(samples):
        return None
    key = f"{_digest(samples)} {num_classes} {samples.device}"
    if key not in _AT_HAND:
        # one alone: what was trained on a sample that is erased since does not stay beside it
        _AT_HAND.clear()
        _AT_HAND[key] = _trained(samples, num_classes)
    return _AT_HAND[key]


def disclosed(recogniser: Recogniser, audit: LabelledSet) -> dict[str, Any]:
    """Return what the classifier is and how well it recognises real images that it never saw, JSON-safe."""
    right = recogniser.recognised(audit)
    labels, hits = audit.labels.cpu(), int(right.sum())
    return {
        "architecture": "small_cnn",
        "trained_on": recogniser.trained_on,
        "pools": ["selection", "population"],
        "accuracy": hits / len(audit) if len(audit) else None,
        "ci95": list(wilson(hits, len(audit))) if len(audit) else None,
        "n": len(audit),
        "per_class": {str(c): float(right[labels == c].double().mean()) for c in torch.unique(labels).tolist()},
    }


def _trained(samples: LabelledSet, num_classes: int) -> Recogniser:
    channels, height, width = samples.images.shape[1:]
    model = build(
        "small_cnn",
        {"width": WIDTH},
        image_shape=(channels, height, width),
        num_classes=num_classes,
        seed=SEED,
    ).to(samples.device)
    shifted = _shifted(samples)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, STEPS * BATCH // len(shifted)))
    recipe = Recipe(epochs=epochs, batch_size=BATCH, lr=0.05, weight_decay=5e-4, seed=SEED)
    train(model, shifted, recipe, task=Classification(), generator=generator_for(SEED))
    if not isinstance(model, SmallCnn):
        raise TypeError(f"the classifier is a SmallCnn, not a {type(model).__name__}")
    return Recogniser(model=model.requires_grad_(requires_grad=False), trained_on=len(samples))


def _shifted(samples: LabelledSet) -> LabelledSet:
    """Return the samples, and each moved by a pixel to every side: drawn images need not stand where real ones do."""
    size = samples.images.shape[2:]
    wide = pad(samples.images, (1, 1, 1, 1))
    moves = [wide[:, :, y : y + size[0], x : x + size[1]] for y, x in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))]
    return LabelledSet(images=torch.cat(moves), labels=samples.labels.repeat(len(moves)))


def _digest(samples: LabelledSet) -> str:
    found = hashlib.sha256(str(tuple(samples.images.shape)).encode())
    for tensor in (samples.images, samples.labels):
        found.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return found.hexdigest()
