"""The networks a model can be registered with.

The constructors stand in workers.architectures under the same names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.catalogue.architectures.options import (
    ArchitectureOptions,
    DdpmOptions,
    ResNetOptions,
    SmallCnnOptions,
    SmallDdpmOptions,
    SmallVitOptions,
    VggOptions,
    VitOptions,
)
from service.catalogue.tasks import Task

__all__ = ["ARCHITECTURES", "ArchitectureOptions", "ArchitectureSpec"]


@dataclass(frozen=True, kw_only=True)
class ArchitectureSpec:
    """Describe one network.

    `sizes` are the only heights and widths in pixels that it takes, of square images; none where it takes all from
    `min_image_size` on. `recipe` holds what a recipe says by default for it, where that is not what recipes say else.
    """

    id: str
    title: str
    options: type[ArchitectureOptions]
    task: Task = Task.CLASSIFICATION
    summary: str
    sizes: tuple[int, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def min_image_size(self) -> int:
        """Return the smallest height and width in pixels that it takes with its default options."""
        return self.options().min_image_size


# Tried on digits; those of the larger network are Ho et al.'s, arXiv:2006.11239.
_DDPM_RECIPE = {"optimizer": "adam", "lr": 2e-3, "weight_decay": 0.0, "batch_size": 64, "epochs": 40}
_SPECS = (
    ArchitectureSpec(
        id="small_cnn",
        title="Small CNN",
        options=SmallCnnOptions,
        summary="Three 3x3 convolutions with ReLU, with or without batch norm, two max-pools, global average "
        "pooling, one linear layer.",
    ),
    ArchitectureSpec(
        id="small_vit",
        title="Small vision transformer",
        options=SmallVitOptions,
        summary="Pre-norm transformer over image patches with a learned position embedding and no batch norm; "
        "edges are padded to whole patches.",
    ),
    ArchitectureSpec(
        id="resnet18",
        title="ResNet-18",
        options=ResNetOptions,
        summary="torchvision's resnet18; the small stem suits images from 8 pixels, the imagenet stem needs 32.",
    ),
    ArchitectureSpec(
        id="resnet50",
        title="ResNet-50",
        options=ResNetOptions,
        summary="torchvision's resnet50, with the stems of resnet18.",
    ),
    ArchitectureSpec(
        id="vgg16_bn",
        title="VGG-16 with batch norm",
        options=VggOptions,
        summary="torchvision's vgg16_bn; the small head suits images from 16 pixels, the imagenet head needs 32.",
    ),
    ArchitectureSpec(
        id="vit_b_16",
        title="ViT-B/16",
        options=VitOptions,
        summary="torchvision's vit_b_16; images of another size are resized to its square, bilinearly.",
    ),
    ArchitectureSpec(
        id="ddpm_unet_small",
        title="Small class-conditional DDPM",
        options=SmallDdpmOptions,
        task=Task.GENERATION,
        sizes=(8, 28),
        recipe=_DDPM_RECIPE,
        summary="The noise predictor of a diffusion model (diffusers' UNet2DModel) with the moving average of its "
        "weights, by which images are drawn; fits two CPU cores.",
    ),
    ArchitectureSpec(
        id="ddpm_unet",
        title="Class-conditional DDPM",
        options=DdpmOptions,
        task=Task.GENERATION,
        sizes=(32,),
        recipe={**_DDPM_RECIPE, "lr": 2e-4, "batch_size": 128},
        summary="The same, larger; wants a GPU.",
    ),
)
ARCHITECTURES: dict[str, ArchitectureSpec] = {spec.id: spec for spec in _SPECS}
