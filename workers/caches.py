"""Erased images leave this machine's decoded datasets, and the ledgers of their requests are told."""

import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from sqlalchemy.orm import Session

from service import atomic_files
from service.store import caches, retention
from service.store.residuals import State
from service.store.tables import Dataset
from service.store.types import new_id
from workers.bench import Bench

_MARK, _PLACE = "cleaned", "place"


def place_of(data_dir: Path) -> str:
    """Return the name of this machine's caches: it lies among them, so that it stays and goes with the disk."""
    file = data_dir / "cache" / _PLACE
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{secrets.token_hex(8)}")
        scratch.write_text(new_id("plc"))
        with suppress(FileExistsError):  # whoever comes first names the place
            atomic_files.name_once(scratch, file)
    return file.read_text()


def note(session: Session, place: str, dataset_id: str) -> None:
    """Write down that the dataset's samples are about to be decoded here."""
    caches.note(session, place=place, machine=socket.gethostname(), dataset_id=dataset_id)


def clean(bench: Bench) -> None:
    """Overwrite erased images in this machine's decoded datasets, once no policy lets an audit read them."""
    parent = bench.settings.data_dir / "cache"
    if not parent.is_dir():
        return
    place = place_of(bench.settings.data_dir)
    with bench.database.reading() as session:
        known = {dataset.id: dataset for dataset in caches.at(session, place)}
        new = [folder.name for folder in parent.iterdir() if folder.is_dir() and folder.name not in known]
        known |= {name: dataset for name in new if (dataset := session.get(Dataset, name)) is not None}
    for dataset in known.values():
        _clean(bench, place, dataset, parent / dataset.id)


def _clean(bench: Bench, place: str, dataset: Dataset, folder: Path) -> None:
    with bench.database.reading() as session:
        due = caches.due(session, place, dataset)
        days = retention.longest(session, dataset.id)
        last = retention.last_over(session, dataset.id, days=days)
        if not due and (last is None or not folder.is_dir() or _marked(folder) == last.isoformat()):
            return
        gone = retention.gone_positions(session, dataset.id, days=days)
    state = State.ABSENT
    if folder.is_dir() and dataset.image_shape:
        overwrite(folder / "images.npy", gone, row_bytes=_product(dataset.image_shape))
        state = State.OVERWRITTEN
    if due:
        checked = {"place": place, "machine": socket.gethostname(), "images": len(gone)}
        with bench.database.writing() as session:
            caches.cleaned(session, place, dataset, due, state=state, checked=checked)
    if last is not None and folder.is_dir():
        (folder / _MARK).write_text(last.isoformat())


def overwrite(path: Path, positions: list[int], *, row_bytes: int) -> None:
    """Write zeros over rows of a .npy file of bytes. By offset, since this process loads no NumPy."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        prefix = file.read(12)
        # Format 1 states its header's length in two bytes, later ones in four.
        width = 2 if prefix[6] == 1 else 4
        data = 8 + width + int.from_bytes(prefix[8 : 8 + width], "little")
        for position in positions:
            file.seek(data + position * row_bytes)
            file.write(bytes(row_bytes))
        file.flush()
        os.fsync(file.fileno())


def _marked(folder: Path) -> str | None:
    mark = folder / _MARK
    return mark.read_text() if mark.exists() else None


def _product(shape: list[int]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total
