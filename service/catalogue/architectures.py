"""The networks a model can be registered with.

The constructors stand in workers.architectures under the same names.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SmallCnnOptions(BaseModel):
    """Options of the small convolutional network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(
        24, ge=4, le=256, description="Channels of the first convolution; the later ones have 2 and 4 times."
    )


class ResNet18Options(BaseModel):
    """Options of ResNet-18."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stem: Literal["small", "imagenet"] = Field(
        "small",
        description="small: 3x3 stride-1 convolution, no max-pool, for images below 64 pixels; "
        "imagenet: torchvision's 7x7 stride-2 convolution and max-pool.",
    )


@dataclass(frozen=True, kw_only=True)
class ArchitectureSpec:
    """Describe one network. `min_image_size`: smallest height and width in pixels, default options."""

    id: str
    title: str
    options: type[BaseModel]
    task: Literal["classification"]
    min_image_size: int
    summary: str


ARCHITECTURES: dict[str, ArchitectureSpec] = {
    "small_cnn": ArchitectureSpec(
        id="small_cnn",
        title="Small CNN",
        options=SmallCnnOptions,
        task="classification",
        min_image_size=8,
        summary="Three 3x3 convolutions with batch norm and ReLU, two max-pools, global average pooling, "
        "one linear layer.",
    ),
    "resnet18": ArchitectureSpec(
        id="resnet18",
        title="ResNet-18",
        options=ResNet18Options,
        task="classification",
        min_image_size=8,
        summary="torchvision's resnet18 for any number of input channels; the small stem suits images from 8 "
        "pixels, the imagenet stem needs 32.",
    ),
}


def smallest_image(architecture: str, options: BaseModel) -> int:
    """Return the smallest height and width in pixels that the network takes with these options."""
    if isinstance(options, ResNet18Options) and options.stem == "imagenet":
        return 32
    return ARCHITECTURES[architecture].min_image_size
