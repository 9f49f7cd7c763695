"""torchvision's residual networks, their first layer replaced to fit the images."""

from pydantic import BaseModel
from torch import nn
from torchvision.models import ResNet, resnet18, resnet50

from service.catalogue.architectures.options import ResNetOptions
from workers.architectures.shapes import ImageShape


def resnet_18(options: BaseModel, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build torchvision's resnet18 without weights."""
    return _fitted(resnet18(weights=None, num_classes=num_classes), options, image_shape[0])


def resnet_50(options: BaseModel, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build torchvision's resnet50 without weights."""
    return _fitted(resnet50(weights=None, num_classes=num_classes), options, image_shape[0])


def _fitted(net: ResNet, options: BaseModel, channels: int) -> nn.Module:
    if ResNetOptions.model_validate(options).stem == "small":
        net.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()
    else:
        net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return net  # type: ignore[no-any-return]
