"""Image files in ``<split>/<class>/`` below ``root``, with Tiny-ImageNet's layout. IDs are the paths below ``root``.

Tiny-ImageNet keeps a class's images one folder deeper (``train/<class>/images/``), those of ``val`` in one folder with
a table of their classes (``val/images/``, ``val/val_annotations.txt``), and those of ``test`` without classes: the
last are left out. Links are followed inside the allowed roots; only regular files are opened.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workers.data.decoding import MAX_FILE_BYTES, SUFFIXES, ImageDecoder, decode_all
from workers.data.inside_roots import real_path
from workers.data.source import MAX_CLASSES, SPLIT_ALIASES, DataError, SourceArrays, subset_positions

_SPLITS = ("train", "val", "valid", "validation", "test")
_IMAGES = "images"


@dataclass(frozen=True, kw_only=True)
class _Found:
    """An image that was listed; `path` is its real path."""

    sample_id: str
    split: str
    label: int
    path: Path


def read(source: Mapping[str, Any], roots: Sequence[Path]) -> SourceArrays:
    """List the images of every split, and decode those of the subset. Raises DataError."""
    listed = _listed(real_path(Path(source["root"]), roots), roots)
    labels = np.array([each.label for each in listed], np.int64)
    positions = subset_positions(labels, [each.split for each in listed], source.get("subset"))
    taken = [listed[i] for i in positions]
    images = decode_all((_bytes(each.path) for each in taken), len(taken), ImageDecoder(source.get("decode")))
    return SourceArrays(
        sample_ids=[each.sample_id for each in taken],
        images=images,
        labels=labels[positions],
        splits=[each.split for each in taken],
    )


def _listed(root: Path, roots: Sequence[Path]) -> list[_Found]:
    folders = [name for name in _SPLITS if real_path(root / name, roots).is_dir()]
    if "train" not in folders:
        raise DataError("source_file_missing", "There is no folder `train` under the root; classes are folders in it.")
    if len({SPLIT_ALIASES.get(name, name) for name in folders}) < len(folders):
        raise DataError("invalid_dataset", "There is more than one folder for the validation split; keep one.")
    classes = _classes(root / "train", roots)
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise DataError("invalid_dataset", f"`train` has {len(classes)} class folders; 2 to {MAX_CLASSES} are needed.")
    labels = {name: label for label, name in enumerate(classes)}
    found = [each for folder in folders for each in _split(root, folder, labels, roots)]
    if not found:
        raise DataError("invalid_dataset", f"No class folder holds an image; known are {', '.join(SUFFIXES)}.")
    return found


def _classes(folder: Path, roots: Sequence[Path]) -> list[str]:
    return [name for name in _names(folder) if real_path(folder / name, roots).is_dir()]


def _names(folder: Path) -> list[str]:
    """Return what lies in a folder, in the order of the names, without what is hidden."""
    try:
        return sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    except OSError:
        raise DataError("source_unreadable", "A folder under the root cannot be listed.") from None


def _split(root: Path, folder: str, labels: Mapping[str, int], roots: Sequence[Path]) -> Iterator[_Found]:
    split = SPLIT_ALIASES.get(folder, folder)
    classes = _classes(root / folder, roots)
    if folder != "train" and classes == [_IMAGES] and _IMAGES not in labels:
        table = real_path(root / folder / f"{folder}_annotations.txt", roots)
        if table.is_file():
            yield from _annotated(root, folder, _table(table), labels, roots)
        return
    unknown = len(set(classes) - labels.keys())
    if unknown:
        raise DataError("invalid_dataset", f"`{folder}` has {unknown} class folders that `train` has not.")
    for name in classes:
        for path in _images(root / folder / name, roots):
            yield _Found(
                sample_id=path.relative_to(root).as_posix(),
                split=split,
                label=labels[name],
                path=real_path(path, roots),
            )


def _images(folder: Path, roots: Sequence[Path]) -> list[Path]:
    """Return the image files of a class, those in its folder `images` last."""
    names = _names(folder)
    found = [folder / name for name in names if _is_image(folder / name, roots)]
    inner = folder / _IMAGES
    if _IMAGES in names and real_path(inner, roots).is_dir():
        found += [inner / name for name in _names(inner) if _is_image(inner / name, roots)]
    return found


def _is_image(path: Path, roots: Sequence[Path]) -> bool:
    # A pipe or a device would keep its reader for ever.
    return path.suffix.lower() in SUFFIXES and real_path(path, roots).is_file()


def _annotated(
    root: Path, folder: str, table: Sequence[tuple[str, str]], labels: Mapping[str, int], roots: Sequence[Path]
) -> Iterator[_Found]:
    inner = root / folder / _IMAGES
    there = {name for name in _names(inner) if _is_image(inner / name, roots)}
    named = {name for name, _ in table}
    faults = {
        "lines name a file that is not in `images`": len(named - there),
        "images have no line": len(there - named),
        "lines name a class that `train` has not": sum(label not in labels for _, label in table),
        "lines name a file again": len(table) - len(named),
    }
    told = "; ".join(f"{count} {fault}" for fault, count in faults.items() if count)
    if told:
        raise DataError("invalid_dataset", f"{folder}_annotations.txt does not fit: {told}.")
    for name, label in sorted(table):
        path = inner / name
        yield _Found(
            sample_id=path.relative_to(root).as_posix(),
            split=SPLIT_ALIASES.get(folder, folder),
            label=labels[label],
            path=real_path(path, roots),
        )


def _table(path: Path) -> list[tuple[str, str]]:
    """Return file name and class of each line; what follows them, a box, is not read."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError("source_too_large", f"{path.name} has over {MAX_FILE_BYTES} bytes.")
        lines = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeError):
        raise DataError("source_unreadable", f"{path.name} is not a readable text file in UTF-8.") from None
    if any(len(line) < 2 for line in lines):
        raise DataError("source_unreadable", f"{path.name} has lines without a tab between file and class.")
    return [(line[0], line[1]) for line in lines]


def _bytes(path: Path) -> bytes:
    """Return a file's bytes, one more than allowed at most, so that who decodes them sees it."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError:
        return b""
