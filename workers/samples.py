"""Labelled images held as tensors on one device. Reads no files and keeps no statistics of the data."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSet:
    """Hold images, uint8 (N, C, H, W), and labels, int64 (N,), on the same device."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            found = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise ValueError(f"images must be uint8 (N, C, H, W), not {found}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels must be int64 (N,), not {self.labels.dtype} {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Return the device both tensors are on."""
        return self.labels.device

    def take(self, index: Tensor) -> "LabelledSet":
        """Copy the samples at `index`, int64 positions or a bool mask, in that order."""
        index = index.to(self.device)
        return LabelledSet(images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "LabelledSet":
        """Return the set on `device`; itself when it is there already."""
        target = torch.device(device)
        if target == self.device:
            return self
        return LabelledSet(images=self.images.to(target), labels=self.labels.to(target))


def joined(first: LabelledSet, second: LabelledSet) -> LabelledSet:
    """Return both sets as one, in that order."""
    return LabelledSet(images=torch.cat([first.images, second.images]), labels=torch.cat([first.labels, second.labels]))


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 images to float32 in [-1, 1].

    The constants are fixed: a mean taken over the data would carry a statistic of erased samples.
    """
    return (images.float() / 255 - 0.5) / 0.5


def shuffled_batches(count: int, batch_size: int, *, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield every position below `count` once, in an order drawn from `generator` on the CPU.

    A single left-over position joins the batch before it: batch norm cannot be trained on one sample.
    """
    order = torch.randperm(count, generator=generator)
    parts = list(torch.split(order, batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    yield from parts
