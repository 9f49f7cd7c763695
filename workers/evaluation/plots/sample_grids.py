"""What the models draw: the first images of each class, before, after, and retrained where there is such a model.

Images are drawn as strokes of a few tones, at most 16 cells a side: the document needs nothing outside it, not even a
picture inside it, and stays small.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from workers.evaluation.plots import canvas
from workers.evaluation.plots.data import ModelSeries, PlotData

TITLE = "What does the model draw when it is asked for a class?"
CLASSES, TILE, SIDE, CELLS, MOST = 10, 30.0, 16, 8000, 6
"""Most classes shown; points a tile; most cells a side of it; most cells in all; most images of a class."""
GREYS, TONES = 12, 5
Bytes = NDArray[np.uint8]


def sample_grids(data: PlotData) -> str:
    """Draw a panel per model, a row per class; forgotten classes stand first. All models begin with the same noise."""
    models = {name: series for name, series in data.shown().items() if series.images}
    with canvas.style():
        if not models:
            made = canvas.figure(title=TITLE, subtitle="no image was drawn", footnote="", height=2.0)
            canvas.say(made.subplots(), canvas.NOT_MEASURED)
            return canvas.to_svg(
                made, name="sample_grids", title=TITLE, description=f"No image was drawn: {canvas.NOT_MEASURED}."
            )
        rows = _rows(models, data.gone)
        tiles = {name: {label: _small(series.images[label]) for label in rows} for name, series in models.items()}
        side = max(image.shape[1] for image in tiles[next(iter(models))].values())
        across = max(1, min(MOST, CELLS // (len(rows) * side * side * len(models))))
        left, gap, top, bottom = 86.0, 26.0, 74.0, 46.0
        pitch = TILE * (side + 1) / side
        panel = (across * pitch, len(rows) * pitch)
        width = left + len(models) * (panel[0] + gap)
        height = top + panel[1] + bottom
        width = max(width, 533.0)
        made = canvas.figure(
            title=TITLE,
            subtitle="the n-th image of a class begins with the same noise under every model",
            footnote="Images that no longer show a class do not prove that it is not known: see relearning.",
            width=width / 72,
            height=height / 72,
        )
        for column, (name, images) in enumerate(tiles.items()):
            at = left + column * (panel[0] + gap)
            axes = made.add_axes((at / width, bottom / height, panel[0] / width, panel[1] / height))
            _panel(axes, name, images, across=across, side=side)
            if column == 0:
                _name_rows(axes, rows, data.gone, side)
        said = ", ".join(canvas.MODEL_NAMES[name] for name in models)
        gone = f"; forgotten: {', '.join(map(str, data.gone))}" if data.gone else ""
        return canvas.to_svg(
            made,
            name="sample_grids",
            title=TITLE,
            description=f"Drawn images of classes {', '.join(map(str, rows))} by {said}{gone}.",
        )


def _rows(models: Mapping[str, ModelSeries], gone: tuple[int, ...]) -> list[int]:
    """Return the classes that every model has images of, forgotten ones first, no more than fit."""
    shared = set.intersection(*(set(series.images) for series in models.values()))
    return sorted(shared, key=lambda label: (label not in gone, label))[:CLASSES]


def _small(images: Bytes) -> Bytes:
    """Return uint8 images (n, h, w, C) of no more than SIDE cells a side, means of squares of (n, C, H, W)."""
    count, channels, high, wide = images.shape
    square = -(-max(high, wide) // SIDE)
    cut = images[:, :, : high // square * square, : wide // square * square]
    cells = cut.reshape(count, channels, high // square, square, wide // square, square).mean((3, 5))
    small: Bytes = cells.transpose(0, 2, 3, 1).round().astype(np.uint8)
    return small


def _panel(axes: Axes, name: str, images: Mapping[int, Bytes], *, across: int, side: int) -> None:
    axes.set_axis_off()
    axes.set(xlim=(0, across * (side + 1)), ylim=(len(images) * (side + 1), 0))
    axes.set_title(canvas.MODEL_NAMES[name], loc="left", size=10, weight="bold", pad=5)
    strokes: dict[tuple[int, ...], list[tuple[float, float, float]]] = {}
    for row, tiles in enumerate(images.values()):
        for column, tile in enumerate(tiles[:across]):
            _strokes(strokes, _toned(tile), x=column * (side + 1), y=row * (side + 1))
    for tone, runs in strokes.items():
        _stroke(axes, tone, np.array(runs), width=TILE / side)


def _toned(tile: Bytes) -> Bytes:
    """Return the tile (h, w, C) in few tones, its runs the longer."""
    steps = (GREYS if tile.shape[2] == 1 else TONES) - 1
    tones: Bytes = (np.round(tile / 255 * steps) * 255 / steps).astype(np.uint8)
    return tones


def _strokes(into: dict[tuple[int, ...], list[tuple[float, float, float]]], tile: Bytes, *, x: int, y: int) -> None:
    """Add (x, x end, y) of every run of one tone."""
    for line, cells in enumerate(tile):
        starts = np.flatnonzero(np.append(True, (cells[1:] != cells[:-1]).any(1)))
        for start, end in zip(starts, [*starts[1:], len(cells)], strict=True):
            tone = tuple(int(channel) for channel in cells[start])
            into.setdefault(tone, []).append((x + float(start), x + float(end), y + line + 0.5))


def _stroke(axes: Axes, tone: tuple[int, ...], runs: NDArray[np.float64], *, width: float) -> None:
    points = np.empty((2 * len(runs), 2))
    points[0::2, 0], points[1::2, 0] = runs[:, 0], runs[:, 1]
    points[:, 1] = np.repeat(runs[:, 2], 2)
    path = Path(points, np.tile([Path.MOVETO, Path.LINETO], len(runs)).astype(np.uint8))
    path.should_simplify = False
    red, green, blue = (tone * 3)[:3] if len(tone) == 1 else tone[:3]
    # a hair wider than a cell, so that no seam shows between lines
    axes.add_patch(PathPatch(path, fill=False, ec=f"#{red:02x}{green:02x}{blue:02x}", lw=width * 1.03, capstyle="butt"))


def _name_rows(axes: Axes, rows: list[int], gone: tuple[int, ...], side: int) -> None:
    for row, label in enumerate(rows):
        forgotten = label in gone
        axes.text(-1, row * (side + 1) + side / 2, f"{label} (forgotten)" if forgotten else str(label), ha="right",
                  va="center", size=9, color=canvas.FORGET if forgotten else canvas.INK,
                  weight="bold" if forgotten else "normal")  # fmt: skip
