"""The report's plots as SVG, drawn from plain arrays in the worker's child. Knows no tensor, model or sample ID.

A figure that was not measured is said to be so in the plot; none raises for want of data.
"""

from collections.abc import Callable

from workers.evaluation.plots.accuracy_bars import accuracy_bars
from workers.evaluation.plots.attack_roc import attack_roc
from workers.evaluation.plots.data import Estimate, ModelSeries, PlotData, Relearned
from workers.evaluation.plots.loss_histograms import loss_histograms
from workers.evaluation.plots.relearning_curves import relearning_curves

PLOTS: dict[str, Callable[[PlotData], str]] = {
    "attack_roc": attack_roc,
    "loss_histograms": loss_histograms,
    "relearning_curves": relearning_curves,
    "accuracy_bars": accuracy_bars,
}


def draw(data: PlotData) -> dict[str, str]:
    """Return every plot as an SVG document by its name. Equal data give equal text."""
    return {name: plot(data) for name, plot in PLOTS.items()}


__all__ = ["PLOTS", "Estimate", "ModelSeries", "PlotData", "Relearned", "draw"]
