"""The report's plots as SVG, drawn from plain arrays in the worker's child. Knows no tensor, model or sample ID.

A figure that was not measured is said to be so in the plot; none raises for want of data.
"""

from collections.abc import Callable

from workers.evaluation.plots.accuracy_bars import accuracy_bars
from workers.evaluation.plots.attack_roc import attack_roc
from workers.evaluation.plots.data import Estimate, ModelSeries, PlotData, Relearned
from workers.evaluation.plots.loss_histograms import loss_histograms
from workers.evaluation.plots.relearning_curves import relearning_curves
from workers.evaluation.plots.sample_grids import sample_grids

PLOTS: dict[str, Callable[[PlotData], str]] = {
    "attack_roc": attack_roc,
    "loss_histograms": loss_histograms,
    "relearning_curves": relearning_curves,
    "accuracy_bars": accuracy_bars,
    "sample_grids": sample_grids,
}


def draw(data: PlotData) -> dict[str, str]:
    """Return the plots as SVG documents by name. Equal data give equal text.

    Where images were drawn there are those in place of accuracies, which a model that draws has none of.
    """
    images = any(series.images for series in data.models.values())
    other = "accuracy_bars" if images else "sample_grids"
    return {name: plot(data) for name, plot in PLOTS.items() if name != other}


__all__ = ["PLOTS", "Estimate", "ModelSeries", "PlotData", "Relearned", "draw"]
