"""FID: the Fréchet distance in the features of Inception, by torchmetrics. Heusel et al., NeurIPS 2017,
arXiv:1706.08500.

Taken only with weights that the operator provides. The images here are small and made larger for the network, and
they are few: figures compare within one report, with published ones they do not.
"""

import torch
from torch import Tensor, nn

from workers.evaluation.generation.inception import NOT_INSTALLED, Absent, Extractor
from workers.samples import LabelledSet

BATCH = 50
MOST_REAL = 2000
"""So many real images at most are looked at; of more, as many evenly spread over them."""
TOO_FEW_REAL = "FID needs 2 real images of retained classes at least"
NOT_RGB = "Inception looks at images of 1 or 3 channels"


class Fid:
    """The distance of drawn images to the same real ones, whose features are taken once for all models."""

    def __init__(self, extractor: Extractor, real: Tensor) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.sha256, self.real_images = extractor.sha256, len(real)
        # a network of one's own is used as it is given: it sees the images as they are, and answers on the CPU
        self._metric = FrechetInceptionDistance(feature=_AsModule(extractor), reset_real_features=False)
        self._update(real, real=True)

    def of(self, drawn: Tensor) -> float:
        """Return the distance of uint8 images (N, C, H, W), N > 1; 0 where rounding makes it less."""
        self._metric.reset()
        self._update(drawn, real=False)
        return max(0.0, float(self._metric.compute()))

    def _update(self, images: Tensor, *, real: bool) -> None:
        for batch in torch.split(images, BATCH):
            self._metric.update(batch, real=real)


class _AsModule(nn.Module):
    """What torchmetrics asks of a network: a module that says how many features it has."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.num_features, self._features = extractor.size, extractor.features

    def forward(self, images: Tensor) -> Tensor:
        return self._features(images)


def fid_to(real: LabelledSet, extractor: Extractor | Absent) -> Fid | Absent:
    """Return what measures the distance to these real images, or why nothing can."""
    if isinstance(extractor, Absent):
        return extractor
    if len(real) < 2:
        return Absent(why=TOO_FEW_REAL)
    if real.images.shape[1] not in (1, 3):
        return Absent(why=NOT_RGB)
    some = torch.linspace(0, len(real) - 1, min(len(real), MOST_REAL)).long()
    try:
        return Fid(extractor, real.images[some.to(real.device)])
    except ModuleNotFoundError:
        return Absent(why=NOT_INSTALLED)
