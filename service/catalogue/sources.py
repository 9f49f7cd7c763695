"""Where datasets may come from, and which of them need a location inside the operator's allowed roots."""

from dataclasses import dataclass
from typing import Literal

Source = Literal[
    "sklearn:digits",
    "torchvision:FashionMNIST",
    "torchvision:CIFAR10",
    "torchvision:CIFAR100",
    "torchvision:SVHN",
    "imagefolder",
    "npz",
    "parquet",
]


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """Describe one source: the field that says where it lies, and whether its images must be decoded."""

    id: Source
    location: Literal["root", "path"] | None = None
    decodes: bool = False
    summary: str

    def fields(self) -> set[str]:
        """Return the fields of a registration that are for this source."""
        return {name for name, takes in ((self.location, True), ("decode", self.decodes)) if name and takes}


_SPECS = (
    SourceSpec(
        id="sklearn:digits",
        summary="scikit-learn's 1,797 handwritten digits, 8×8; sample IDs are `digits/<index>`.",
    ),
    SourceSpec(
        id="torchvision:FashionMNIST",
        location="root",
        summary="IDX files, plain or gzipped; sample IDs are `<split>/<index>`.",
    ),
    SourceSpec(
        id="torchvision:CIFAR10",
        location="root",
        summary="The binary version's `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, never the pickled "
        "Python version; sample IDs are `<split>/<index>`.",
    ),
    SourceSpec(
        id="torchvision:CIFAR100",
        location="root",
        summary="The binary version's `train.bin` and `test.bin`, with the 100 fine labels, never the pickled Python "
        "version; sample IDs are `<split>/<index>`.",
    ),
    SourceSpec(
        id="torchvision:SVHN",
        location="root",
        summary="`train_32x32.mat` and `test_32x32.mat`; sample IDs are `<split>/<index>`.",
    ),
    SourceSpec(
        id="imagefolder",
        location="root",
        decodes=True,
        summary="Image files in `<split>/<class>/`, split being train, val or test; Tiny-ImageNet's `<class>/images/` "
        "and `val_annotations.txt` too. Sample IDs are the paths below `root`; classes count in the order of "
        "their names.",
    ),
    SourceSpec(
        id="npz",
        location="path",
        summary="A NumPy archive with arrays sample_id, image (uint8 NHWC or NHW), label, split.",
    ),
    SourceSpec(
        id="parquet",
        location="path",
        decodes=True,
        summary="A Parquet file, or a folder of them, with columns sample_id, image (encoded bytes, a struct with "
        "`bytes`, or a list of uint8 in the order height, width, channel), label, split.",
    ),
)
SOURCES: dict[str, SourceSpec] = {spec.id: spec for spec in _SPECS}
