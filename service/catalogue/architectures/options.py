"""What can be chosen about each network, and how small an image it then takes."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

WidthFactor = Annotated[int, Field(ge=1, le=8)]
Level = Annotated[int, Field(ge=0, le=4)]


class ArchitectureOptions(BaseModel, ABC):
    """Options of one network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    SIZED_BY: ClassVar[frozenset[str]] = frozenset()
    """The options that decide the smallest image."""

    @property
    @abstractmethod
    def min_image_size(self) -> int:
        """Return the smallest height and width in pixels that the network takes."""


class SmallCnnOptions(ArchitectureOptions):
    """Options of the small convolutional network."""

    width: int = Field(
        24, ge=4, le=256, description="Channels of the first convolution; the later ones have 2 and 4 times."
    )
    norm: bool = Field(
        default=True, description="Batch norm after each convolution; without it, the convolutions have a bias."
    )

    @property
    def min_image_size(self) -> int:
        return 8


class SmallVitOptions(ArchitectureOptions):
    """Options of the small vision transformer."""

    SIZED_BY: ClassVar[frozenset[str]] = frozenset({"patch_size"})

    patch_size: int = Field(
        4, ge=2, le=32, description="Side of a patch in pixels; half of it makes 4 times the tokens."
    )
    width: int = Field(64, ge=8, le=512, description="Numbers per token; a multiple of heads.")
    depth: int = Field(4, ge=1, le=12, description="Transformer blocks.")
    heads: int = Field(4, ge=1, le=16, validate_default=True, description="Attention heads of each block.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of values dropped after the embedding and each layer.")

    @field_validator("heads")
    @classmethod
    def _heads_share_the_width(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("width", 0) % heads:  # a width that is at fault itself is told as such
            raise ValueError("width must be a multiple of heads")
        return heads

    @property
    def min_image_size(self) -> int:
        return 2 * self.patch_size


class ResNetOptions(ArchitectureOptions):
    """Options of ResNet-18 and ResNet-50."""

    SIZED_BY: ClassVar[frozenset[str]] = frozenset({"stem"})

    stem: Literal["small", "imagenet"] = Field(
        "small",
        description="small: 3x3 stride-1 convolution, no max-pool, for images below 64 pixels; "
        "imagenet: torchvision's 7x7 stride-2 convolution and max-pool.",
    )

    @property
    def min_image_size(self) -> int:
        return 8 if self.stem == "small" else 32


class VggOptions(ArchitectureOptions):
    """Options of VGG-16 with batch norm."""

    SIZED_BY: ClassVar[frozenset[str]] = frozenset({"head"})

    head: Literal["small", "imagenet"] = Field(
        "small",
        description="small: global average pooling in place of the last max-pool, one linear layer; "
        "imagenet: torchvision's three linear layers with dropout, 120 million weights.",
    )

    @property
    def min_image_size(self) -> int:
        return 16 if self.head == "small" else 32


class VitOptions(ArchitectureOptions):
    """Options of ViT-B/16."""

    image_size: int = Field(
        224, ge=32, le=384, multiple_of=16, description="Side in pixels of the square that images are resized to."
    )

    @property
    def min_image_size(self) -> int:
        return 8


class DdpmOptions(ArchitectureOptions):
    """Options of the larger noise predictor, and what both have in common."""

    SIZED_BY: ClassVar[frozenset[str]] = frozenset({"width_factors"})

    width: int = Field(64, ge=8, le=256, multiple_of=8, description="Channels of the first level.")
    width_factors: tuple[WidthFactor, ...] = Field(
        (1, 2, 2),
        min_length=1,
        max_length=5,
        description="Channels of each level in units of width; each level but the first works on half the image's "
        "sides, which must divide evenly.",
    )
    blocks: int = Field(2, ge=1, le=4, description="Residual blocks of a level.")
    attention_levels: tuple[Level, ...] = Field(
        (1,), max_length=5, validate_default=True, description="Levels, from 0, with self-attention."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of values dropped in each residual block.")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="Decay of the moving average of the weights, per step; images are drawn by it."
    )
    class_condition: bool = Field(
        default=True,
        description="Whether the network is told the class to draw. False: it draws any, and cannot be asked to "
        "forget one as a whole.",
    )

    @field_validator("attention_levels")
    @classmethod
    def _attention_is_on_levels_there_are(cls, at: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        factors = info.data.get("width_factors")
        if factors is not None and any(level >= len(factors) for level in at):
            raise ValueError(f"attention_levels must lie below {len(factors)}, the number of width_factors")
        return at

    @property
    def min_image_size(self) -> int:
        return int(2 ** (len(self.width_factors) + 1))


class SmallDdpmOptions(DdpmOptions):
    """Options of the small noise predictor."""

    width: int = Field(16, ge=8, le=256, multiple_of=8, description="Channels of the first level.")
    width_factors: tuple[WidthFactor, ...] = Field(
        (1, 2), min_length=1, max_length=3, description=DdpmOptions.model_fields["width_factors"].description
    )
    blocks: int = Field(1, ge=1, le=4, description="Residual blocks of a level.")
