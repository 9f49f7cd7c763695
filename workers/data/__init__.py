"""Readers, one per source, by the name a dataset is registered with."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.data import cifar, digits, fashion_mnist, image_folder, npz, parquet, svhn
from workers.data.source import SourceArrays

READERS: dict[str, Callable[[Mapping[str, Any], Sequence[Path]], SourceArrays]] = {
    "sklearn:digits": digits.read,
    "torchvision:FashionMNIST": fashion_mnist.read,
    "torchvision:CIFAR10": cifar.read_10,
    "torchvision:CIFAR100": cifar.read_100,
    "torchvision:SVHN": svhn.read,
    "imagefolder": image_folder.read,
    "npz": npz.read,
    "parquet": parquet.read,
}


def read(source: Mapping[str, Any], *, roots: Sequence[Path] = ()) -> SourceArrays:
    """Read and check a source, whose files must lie inside one of the roots. Raises DataError."""
    return READERS[source["source"]](source, roots).checked()
