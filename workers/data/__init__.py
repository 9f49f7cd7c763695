"""Readers, one per source, by the name a dataset is registered with."""

from collections.abc import Callable, Mapping
from typing import Any

from workers.data import digits, fashion_mnist, npz
from workers.data.source import SourceArrays

READERS: dict[str, Callable[[Mapping[str, Any]], SourceArrays]] = {
    "sklearn:digits": digits.read,
    "torchvision:FashionMNIST": fashion_mnist.read,
    "npz": npz.read,
}


def read(source: Mapping[str, Any]) -> SourceArrays:
    """Read and check a source. Raises DataError."""
    return READERS[source["source"]](source).checked()
