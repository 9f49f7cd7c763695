"""Decode image files into one array of uint8, with limits on what they unpack to; counts faults, names no image."""

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.data.source import MAX_UNPACKED_BYTES, DataError

Pixels = NDArray[np.uint8]
FORMATS = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "BMP": (".bmp",), "PPM": (".ppm", ".pgm"), "WEBP": (".webp",)}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 2**25
MAX_FILE_BYTES = 2**28
_MODES = {"rgb": ("RGB", 3), "grey": ("L", 1)}
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError, struct.error, zlib.error)
"""What Pillow raises for files that are damaged."""

_DAMAGED = "cannot be decoded"
_LARGE = f"have more than {MAX_PIXELS} pixels or {MAX_FILE_BYTES} bytes"
_DEEP = "have more than 8 bits per channel"
_UNEQUAL = "differ in size from the first (give `decode.size`)"


class Undecodable(ValueError):
    """One image cannot be used; the message completes "n of m images ..."."""


class ImageDecoder:
    """Make arrays (C, H, W) of image files, as a registration's `decode` says."""

    def __init__(self, wanted: Mapping[str, Any] | None) -> None:
        wanted = wanted or {}
        self.mode, self.channels = _MODES[wanted.get("mode", "rgb")]
        self.size: tuple[int, int] | None = tuple(wanted["size"]) if wanted.get("size") else None

    def decode(self, raw: bytes) -> Pixels:
        """Return the pixels of one encoded image. Raises Undecodable."""
        if len(raw) > MAX_FILE_BYTES:
            raise Undecodable(_LARGE)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(raw), formats=list(FORMATS)) as image:
                    return self._pixels(image)
        except Undecodable:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
            raise Undecodable(_LARGE) from None
        except _DAMAGE:
            raise Undecodable(_DAMAGED) from None

    def flat(self, values: NDArray[Any]) -> Pixels:
        """Return the pixels of one image given as uint8 in the order height, width, channel. Raises Undecodable."""
        if self.size is None:
            raise Undecodable("are lists of values, whose `decode.size` must be given")
        if values.dtype != np.uint8 or values.shape != (self.size[0] * self.size[1] * self.channels,):
            raise Undecodable(f"are not {self.size[0]} x {self.size[1]} x {self.channels} values of uint8")
        return values.reshape(*self.size, self.channels).transpose(2, 0, 1)

    def _pixels(self, image: Image.Image) -> Pixels:
        # What the header says, before a pixel is unpacked.
        if image.width * image.height > MAX_PIXELS:
            raise Undecodable(_LARGE)
        if image.mode.startswith(("I", "F")):
            raise Undecodable(_DEEP)
        # Pillow drops a palette's transparency with a warning unless it becomes a channel first.
        whole = image.convert("RGBA") if "transparency" in image.info else image
        plain = whole.convert(self.mode)
        if self.size is not None and (plain.height, plain.width) != self.size:
            plain = plain.resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels: Pixels = np.asarray(plain, dtype=np.uint8)
        return pixels.reshape(plain.height, plain.width, self.channels).transpose(2, 0, 1)


class ImageStack:
    """Gather images of one size in one array, and count why others cannot be."""

    def __init__(self, count: int) -> None:
        self._count, self._filled = count, 0
        self._images: Pixels | None = None
        self._faults: Counter[str] = Counter()

    def add(self, pixels: Pixels) -> None:
        """Take the next image, (C, H, W). Raises DataError when all of that size, or so many, are too much."""
        if self._filled == self._count:
            raise DataError("source_unreadable", "The source holds more images than it says.")
        if self._images is None:
            if self._count * pixels.size > MAX_UNPACKED_BYTES:
                raise DataError("source_too_large", f"The images decode to over {MAX_UNPACKED_BYTES} bytes.")
            self._images = np.empty((self._count, *pixels.shape), np.uint8)
        if pixels.shape != self._images.shape[1:]:
            self.refuse(_UNEQUAL)
        else:
            self._images[self._filled] = pixels
        self._filled += 1

    def refuse(self, reason: str) -> None:
        """Count an image that cannot be used."""
        self._faults[reason] += 1

    def images(self) -> Pixels:
        """Return all, (N, C, H, W). Raises DataError with every kind of fault and how often it comes."""
        if self._faults or self._images is None or self._filled < self._count:
            told = "; ".join(f"{n} of {self._count} images {reason}" for reason, n in sorted(self._faults.items()))
            told = told or "it holds fewer images than it says"
            raise DataError("invalid_images", f"The source cannot be indexed: {told}.")
        return self._images


def decode_all(encoded: Iterable[bytes], count: int, decoder: ImageDecoder) -> Pixels:
    """Return `count` encoded images as (N, C, H, W). Raises DataError with every kind of fault."""
    stack = ImageStack(count)
    for raw in encoded:
        try:
            stack.add(decoder.decode(raw))
        except Undecodable as fault:
            stack.refuse(str(fault))
    return stack.images()
