"""What a constructor is given, and linear changes of an image's height and width."""

from collections.abc import Callable

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, interpolate

ImageShape = tuple[int, int, int]
Constructor = Callable[[BaseModel, ImageShape, int], nn.Module]


class Separable(nn.Module):
    """Map the rows (H', H) and the columns (W', W) of an image by matrices: (N, C, H, W) -> (N, C, H', W').

    torch's own pooling and resizing have no backward pass on CUDA that repeats bit for bit. No checkpoint holds
    the matrices.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mapped images."""
        return self.rows @ x @ self.columns.mT


def average_pool(height: int, width: int, *, size: int) -> nn.Module:
    """Return torch's adaptive average pooling of images (height, width) to a square."""

    def pooling(side: int) -> Tensor:
        return adaptive_avg_pool1d(torch.eye(side), size).mT

    return Separable(pooling(height), pooling(width))


def bilinear_resize(height: int, width: int, *, size: int) -> nn.Module:
    """Return torch's bilinear resizing, without anti-aliasing, of images (height, width) to a square."""

    def resizing(side: int) -> Tensor:
        return interpolate(torch.eye(side)[None], size, mode="linear", align_corners=False)[0].mT

    return Separable(resizing(height), resizing(width))
