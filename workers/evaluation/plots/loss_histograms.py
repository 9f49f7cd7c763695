"""How the losses of forgotten samples lie beside those of unseen ones, before and after."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from workers.evaluation.intervals import Floats
from workers.evaluation.plots import canvas
from workers.evaluation.plots.data import ModelSeries, PlotData

BINS, FLOOR = 36, 1e-6
TITLE = "Do the forgotten samples' losses look like those of unseen ones?"
SETS = {"forget set": canvas.FORGET, "unseen controls": canvas.UNSEEN}


def loss_histograms(data: PlotData) -> str:
    """Draw one panel per model, with shared axes."""
    models = data.shown()
    sides = {name: (_known(series.loss_forget), _known(series.loss_unseen)) for name, series in models.items()}
    edges = _edges(np.concatenate([side for pair in sides.values() for side in pair]))
    with canvas.style():
        made = canvas.figure(
            title=TITLE,
            subtitle="share of samples by loss; after unlearning the two should lie as if drawn from one pile",
            footnote=_footnote(models, edges),
            height=2.0 + 1.6 * len(models),
        )
        panels = made.subplots(len(models), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        canvas.room(made, top=1.0)
        made.subplots_adjust(hspace=0.24)
        for axes, (name, pair) in zip(panels, sides.items(), strict=True):
            _panel(axes, name, pair, edges)
        top = max(panel.get_ylim()[1] for panel in panels)
        panels[0].set_ylim(0, top)
        panels[-1].set_xlabel(f"loss of a sample, {data.unit} (log scale)")
        said = "; ".join(f"{canvas.MODEL_NAMES[name]}: {_medians(pair)}" for name, pair in sides.items())
        return canvas.to_svg(
            made, name="loss_histograms", title=TITLE, description=f"Histograms of per-sample losses. {said}."
        )


def _known(losses: Floats) -> Floats:
    return losses[~np.isnan(losses)]


def _edges(losses: Floats) -> Floats:
    """Return bin edges, evenly spaced on the log scale, over what is finite; with some width whatever is given."""
    finite = np.clip(losses[np.isfinite(losses)], FLOOR, 1e6)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.01, 10.0)
    if high < 4 * low:
        low, high = low / 2, high * 2
    edges: Floats = np.geomspace(low, high, BINS + 1)
    return edges


def _panel(axes: Axes, name: str, pair: tuple[Floats, Floats], edges: Floats) -> None:
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    canvas.plain(axes.xaxis)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.grid(color=canvas.GRID, lw=0.7, axis="y")
    if not all(map(len, pair)):
        canvas.say(axes, canvas.NOT_MEASURED)
    for row, (losses, colour) in enumerate(zip(pair, SETS.values(), strict=True)):
        if not len(losses):
            continue
        inside = np.clip(losses, edges[0], edges[-1])
        shares = np.histogram(inside, edges)[0] / len(losses)
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.22, lw=0)
        axes.stairs(shares, edges, color=colour, lw=1.6, ls="-" if row == 0 else (0, (4, 1.5)))
        median = _median(inside)
        axes.axvline(median, color=colour, lw=1.1, ls=":" if row else "-")
    words = [f"{label}: {f'median {_median(losses):.2g}' if len(losses) else canvas.NOT_MEASURED}"
             for losses, label in zip(pair, SETS, strict=True)]  # fmt: skip
    canvas.headline(axes, name, list(zip(words, SETS.values(), strict=True)))


def _footnote(models: dict[str, ModelSeries], edges: Floats) -> str:
    lines = [
        "Equal histograms are what one observer of losses sees; they do not prove that nothing else remains.",
        f"{_counts(models)}. Losses outside {edges[0]:.2g} to {edges[-1]:.2g} are drawn in the outermost bins.",
    ]
    every = np.concatenate([losses for m in models.values() for losses in (m.loss_forget, m.loss_unseen)])
    infinite, missing = int(np.isinf(every).sum()), int(np.isnan(every).sum())
    if infinite or missing:
        lines[1] += f" {infinite} infinite; {missing} not a number, left out."
    return "\n".join(lines)


def _counts(models: dict[str, ModelSeries]) -> str:
    forget = max(len(series.loss_forget) for series in models.values())
    unseen = max(len(series.loss_unseen) for series in models.values())
    return f"{forget} forget samples, {unseen} controls"


def _medians(pair: tuple[Floats, Floats]) -> str:
    shown = [f"{label} median {_median(x):.3g}" if len(x) else f"{label} {canvas.NOT_MEASURED}"
             for x, label in zip(pair, SETS, strict=True)]  # fmt: skip
    return ", ".join(shown)


def _median(losses: Floats) -> float:
    """Return the lower median: the mean of two losses may not be finite where each of them is."""
    return float(np.sort(losses)[(len(losses) - 1) // 2])
