"""torchvision's VGG-16 with batch norm, its first layer and its head replaced to fit images and classes."""

from pydantic import BaseModel
from torch import nn
from torchvision.models import vgg16_bn

from service.catalogue.architectures.options import VggOptions
from workers.architectures.shapes import ImageShape, average_pool

_SHRINKING, _POOLED, _CHANNELS = 32, 7, 512


def vgg_16_bn(options: BaseModel, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build torchvision's vgg16_bn without weights."""
    channels, height, width = image_shape
    net = vgg16_bn(weights=None, num_classes=num_classes)
    if VggOptions.model_validate(options).head == "small":
        net.features[-1] = nn.Identity()
        net.avgpool = nn.AdaptiveAvgPool2d(1)
        net.classifier = nn.Linear(_CHANNELS, num_classes)
        nn.init.normal_(net.classifier.weight, 0, 0.01)
        nn.init.zeros_(net.classifier.bias)
    else:
        net.avgpool = average_pool(height // _SHRINKING, width // _SHRINKING, size=_POOLED)
    if channels != net.features[0].in_channels:
        net.features[0] = nn.Conv2d(channels, net.features[0].out_channels, 3, padding=1)
        nn.init.kaiming_normal_(net.features[0].weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(net.features[0].bias)
    return net  # type: ignore[no-any-return]
