"""Constructors of the networks in service.catalogue.architectures, under the same names."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torchvision.models import resnet18

from service.catalogue import architectures as catalogue
from service.catalogue.architectures import ResNet18Options, SmallCnnOptions

ImageShape = tuple[int, int, int]


class UnknownArchitectureError(ValueError):
    """No network of that name; the message lists those there are."""


class SmallCnn(nn.Module):
    """Three 3x3 convolutions, global average pooling, one linear layer: (N, C, H, W) -> (N, K)."""

    def __init__(self, *, channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv_block(channels, width),
            nn.MaxPool2d(2),
            *_conv_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_conv_block(2 * width, 4 * width),
        )
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of normalised float images."""
        return self.head(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


def _conv_block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def small_cnn(options: BaseModel, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build a SmallCnn."""
    chosen = SmallCnnOptions.model_validate(options)
    return SmallCnn(channels=image_shape[0], width=chosen.width, num_classes=num_classes)


def resnet_18(options: BaseModel, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build torchvision's resnet18 without weights; its first layer is replaced to fit the images."""
    chosen = ResNet18Options.model_validate(options)
    net = resnet18(weights=None, num_classes=num_classes)
    if chosen.stem == "small":
        net.conv1 = nn.Conv2d(image_shape[0], 64, 3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()
    else:
        net.conv1 = nn.Conv2d(image_shape[0], 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return net  # type: ignore[no-any-return]


Constructor = Callable[[BaseModel, ImageShape, int], nn.Module]
ARCHITECTURES: dict[str, Constructor] = {"small_cnn": small_cnn, "resnet18": resnet_18}


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
    smallest = catalogue.smallest_image(architecture, chosen)
    if image_shape[0] < 1 or min(image_shape[1:]) < smallest:
        raise ValueError(f"{architecture} takes images from {smallest}x{smallest}, not {image_shape}")
    if not 2 <= num_classes <= 1000:
        raise ValueError(f"2 to 1000 classes, not {num_classes}")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return ARCHITECTURES[architecture](chosen, image_shape, num_classes)
