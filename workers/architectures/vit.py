"""torchvision's ViT-B/16 for images of any size and number of channels."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models import VisionTransformer

from service.catalogue.architectures.options import VitOptions
from workers.architectures.shapes import ImageShape, bilinear_resize


class ResizingVit(VisionTransformer):  # type: ignore[misc]  # torchvision has no types
    """A vision transformer that resizes images to its square and computes attention in plain operations.

    The fused kernels for attention can neither be differentiated twice nor vectorised over copies, and their
    backward passes on CUDA do not repeat bit for bit.
    """

    resize: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of normalised float images."""
        with _plain_attention():
            return super().forward(self.resize(x))  # type: ignore[no-any-return]


@contextmanager
def _plain_attention() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def vit_base_16(options: BaseModel, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build torchvision's vit_b_16 without weights."""
    channels, height, width = image_shape
    size = VitOptions.model_validate(options).image_size
    net = ResizingVit(
        image_size=size,
        patch_size=16,
        num_layers=12,
        num_heads=12,
        hidden_dim=768,
        mlp_dim=3072,
        num_classes=num_classes,
    )
    net.resize = nn.Identity() if height == width == size else bilinear_resize(height, width, size=size)
    if channels != net.conv_proj.in_channels:
        net.conv_proj = nn.Conv2d(channels, net.hidden_dim, net.patch_size, stride=net.patch_size)
        # as torchvision does: the variance of a linear layer over one patch
        nn.init.trunc_normal_(net.conv_proj.weight, std=math.sqrt(1 / (channels * net.patch_size**2)))
        nn.init.zeros_(net.conv_proj.bias)
    return net
