"""The network whose features FID is taken in: Inception v3 of 2015, as torch-fidelity has it.

Its weights are the operator's to provide, as tensors. Nothing is downloaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import torch
from torch import Tensor, nn

FEATURES = 2048
RGB = 3
NOT_INSTALLED = "torchmetrics and torch-fidelity are not installed (the extra `fid`)"
OTHER_WEIGHTS = (
    "the tensors of UNLEARN_INCEPTION_WEIGHTS are not those of torch-fidelity's Inception network, by name and shape"
)
NOT_FINITE = "the tensors of UNLEARN_INCEPTION_WEIGHTS have values that are not finite"


@dataclass(frozen=True, kw_only=True)
class Absent:
    """Why there is no network to take FID with, as a sentence's end."""

    why: str


NOT_NAMED = Absent(why="no weights of Inception were provided (UNLEARN_INCEPTION_WEIGHTS)")


@dataclass(frozen=True, kw_only=True, eq=False)
class Extractor:
    """A network in eval mode from uint8 images (N, 3, H, W) to `size` features each (N, d), and its weights' digest."""

    network: nn.Module
    size: int
    sha256: str

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the features (N, d), on the CPU, of uint8 images (N, 1 or 3, H, W), grey ones as three channels."""
        device = next(self.network.parameters()).device
        found: Tensor = self.network(images.to(device).expand(-1, RGB, -1, -1))
        return found.cpu()


class _OneLayer(nn.Module):
    """Inception with its one layer of features for an answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        (found,) = self.network(images)
        return found  # type: ignore[no-any-return]


def inception(tensors: Mapping[str, Tensor], *, sha256: str, device: torch.device | str = "cpu") -> Extractor | Absent:
    """Build the network of these weights on a device. What the file with the digest lacks is told, not raised."""
    try:
        # Imported here: an extra, which need not be installed, and takes seconds to load.
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        return Absent(why=NOT_INSTALLED)
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        return Absent(why=NOT_FINITE)
    # The class takes its weights from a pickle alone, or from the network. It is handed one that was made here, in
    # memory, of tensors: of the operator's file nothing is unpickled.
    handed = BytesIO()
    torch.save(dict(tensors), handed)
    handed.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception", [str(FEATURES)], feature_extractor_weights_path=handed)
    except RuntimeError:
        return Absent(why=OTHER_WEIGHTS)
    return Extractor(network=_OneLayer(network).to(device).eval(), size=FEATURES, sha256=sha256)
