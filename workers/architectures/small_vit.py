"""A small vision transformer for small images. Dosovitskiy et al., ICLR 2021, arXiv:2010.11929, without class token.

Attention is written in plain operations: the fused kernels can neither be differentiated twice nor vectorised over
copies. N: images, T: tokens, D: width, h: heads.
"""

import math

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import pad

from service.catalogue.architectures.options import SmallVitOptions
from workers.architectures.shapes import ImageShape

_EXPANSION = 4


class SmallVit(nn.Module):
    """Patches, learned positions, pre-norm blocks, the mean over tokens, one linear layer: (N, C, H, W) -> (N, K)."""

    def __init__(self, options: SmallVitOptions, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        size = self.patch_size = options.patch_size
        self.patches = nn.Conv2d(channels, options.width, size, stride=size)
        tokens = math.ceil(height / size) * math.ceil(width / size)
        self.positions = nn.Parameter(torch.empty(tokens, options.width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(options.dropout)
        self.blocks = nn.Sequential(*(Block(options) for _ in range(options.depth)))
        self.norm = nn.LayerNorm(options.width)
        self.head = nn.Linear(options.width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of normalised float images; right and bottom are padded to whole patches."""
        whole = pad(x, (0, -x.shape[3] % self.patch_size, 0, -x.shape[2] % self.patch_size))
        tokens = self.patches(whole).flatten(2).mT + self.positions
        return self.head(self.norm(self.blocks(self.dropout(tokens))).mean(1))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): (N, T, D) -> (N, T, D)."""

    def __init__(self, options: SmallVitOptions) -> None:
        super().__init__()
        width = options.width
        self.attend = nn.Sequential(nn.LayerNorm(width), Attention(width, options.heads), nn.Dropout(options.dropout))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, _EXPANSION * width),
            nn.GELU(),
            nn.Linear(_EXPANSION * width, width),
            nn.Dropout(options.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens of the next block."""
        x = x + self.attend(x)
        return x + self.mlp(x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(D / h)) V per head, and a linear layer over all heads: (N, T, D) -> (N, T, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        # no bias: that of the keys cancels in the softmax, its gradient is rounding alone
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.merge = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each token reads from all."""
        # (N, T, 3 D) -> three times (N, h, T, D / h)
        q, k, v = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        weights = (q @ k.mT / math.sqrt(q.shape[3])).softmax(3)
        return self.merge((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def small_vit(options: BaseModel, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build a SmallVit."""
    return SmallVit(SmallVitOptions.model_validate(options), image_shape, num_classes)
