"""A small convolutional network, with batch norm or without any norm layer."""

from pydantic import BaseModel
from torch import Tensor, nn

from service.catalogue.architectures.options import SmallCnnOptions
from workers.architectures.shapes import ImageShape


class SmallCnn(nn.Module):
    """Three 3x3 convolutions, global average pooling, one linear layer: (N, C, H, W) -> (N, K)."""

    def __init__(self, *, channels: int, width: int, norm: bool, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv_block(channels, width, norm=norm),
            nn.MaxPool2d(2),
            *_conv_block(width, 2 * width, norm=norm),
            nn.MaxPool2d(2),
            *_conv_block(2 * width, 4 * width, norm=norm),
        )
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of normalised float images."""
        return self.head(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


def _conv_block(inputs: int, outputs: int, *, norm: bool) -> list[nn.Module]:
    if not norm:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def small_cnn(options: BaseModel, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build a SmallCnn."""
    chosen = SmallCnnOptions.model_validate(options)
    return SmallCnn(channels=image_shape[0], width=chosen.width, norm=chosen.norm, num_classes=num_classes)
