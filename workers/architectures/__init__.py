"""Constructors of the networks in service.catalogue.architectures, under the same names."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from service.catalogue import architectures as catalogue
from workers.architectures.ddpm import ddpm_unet
from workers.architectures.resnet import resnet_18, resnet_50
from workers.architectures.shapes import Constructor, ImageShape
from workers.architectures.small_cnn import small_cnn
from workers.architectures.small_vit import small_vit
from workers.architectures.vgg import vgg_16_bn
from workers.architectures.vit import vit_base_16

__all__ = ["ARCHITECTURES", "ImageShape", "UnknownArchitectureError", "build"]


class UnknownArchitectureError(ValueError):
    """No network of that name; the message lists those there are."""


ARCHITECTURES: dict[str, Constructor] = {
    "small_cnn": small_cnn,
    "small_vit": small_vit,
    "resnet18": resnet_18,
    "resnet50": resnet_50,
    "vgg16_bn": vgg_16_bn,
    "vit_b_16": vit_base_16,
    "ddpm_unet_small": ddpm_unet,
    "ddpm_unet": ddpm_unet,
}


def build(
    architecture: str,
    options: Mapping[str, Any],
    *,
    image_shape: ImageShape,
    num_classes: int,
    seed: int | None = None,
) -> nn.Module:
    """Build a freshly initialised network on the CPU.

    With a seed the weights depend on it alone and the global random state is left as it was.
    Raises UnknownArchitectureError, pydantic.ValidationError for the options, ValueError for the shape.
    """
    if architecture not in ARCHITECTURES:
        raise UnknownArchitectureError(f"unknown architecture {architecture!r}; known: {sorted(ARCHITECTURES)}")
    chosen = catalogue.ARCHITECTURES[architecture].options.model_validate(dict(options))
    smallest = chosen.min_image_size
    if image_shape[0] < 1 or min(image_shape[1:]) < smallest:
        raise ValueError(f"{architecture} takes images from {smallest}x{smallest}, not {image_shape}")
    if not 2 <= num_classes <= 1000:
        raise ValueError(f"2 to 1000 classes, not {num_classes}")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return ARCHITECTURES[architecture](chosen, image_shape, num_classes)
