"""What the model can still do: accuracy by split, before and after."""

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from workers.evaluation.plots import canvas
from workers.evaluation.plots.data import SPLITS, Estimate, PlotData

TITLE = "What can the model still do?"
LABELS = {"retain": "retain\n(kept)", "forget": "forget\n(to be gone)", "unseen": "unseen\ncontrols", "test": "test"}


def accuracy_bars(data: PlotData) -> str:
    """Draw a group per split and a bar per model, with 95 % whiskers."""
    models = data.shown()
    with canvas.style():
        made = canvas.figure(
            title=TITLE,
            subtitle="accuracy by split, with 95 % intervals; forget should fall to unseen, the others should stay",
            footnote="Accuracy alone shows no forgetting: a model may know a sample and answer as before,\n"
            "or answer wrongly and still know it.",
        )
        axes = made.subplots()
        canvas.room(made, left=0.85, top=1.05)
        _frame(axes)
        width = 0.8 / len(models)
        for i, (name, series) in enumerate(models.items()):
            offsets = [split - 0.4 + width * (i + 0.5) for split in range(len(SPLITS))]
            found = [series.accuracy.get(split, Estimate(value=None)) for split in SPLITS]
            _bars(axes, name, offsets, found, width)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(models), frameon=False, handlelength=1.2,
                    borderaxespad=0.2, fontsize=9.5)  # fmt: skip
        said = "; ".join(
            f"{canvas.MODEL_NAMES[name]}: "
            + ", ".join(f"{split} {_percent(m.accuracy.get(split), ' %')}" for split in SPLITS)
            for name, m in models.items()
        )
        return canvas.to_svg(made, name="accuracy_bars", title=TITLE, description=f"Bars of accuracy. {said}.")


def _frame(axes: Axes) -> None:
    axes.set(ylim=(0, 1.1), xlim=(-0.5, len(SPLITS) - 0.5))
    axes.set_xticks(range(len(SPLITS)), [LABELS[split] for split in SPLITS])
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_ylabel("accuracy")
    axes.grid(color=canvas.GRID, lw=0.7, axis="y")


def _bars(axes: Axes, name: str, offsets: list[float], found: list[Estimate], width: float) -> None:
    heights = [0.0 if estimate.value is None else estimate.value for estimate in found]
    hatch = {"parent": "", "unlearned": "", "retrained": "////"}[name]
    axes.bar(offsets, heights, width * 0.92, color=canvas.MODEL_COLOURS[name], label=canvas.MODEL_NAMES[name],
             hatch=hatch, edgecolor="white", lw=0)  # fmt: skip
    for x, estimate in zip(offsets, found, strict=True):
        if estimate.value is None:
            axes.text(x, 0.02, canvas.NOT_MEASURED, rotation=90, ha="center", va="bottom", size=8, color=canvas.FAINT)
            continue
        low, high = estimate.ci95 or (estimate.value, estimate.value)
        axes.plot([x, x], [low, high], color=canvas.INK, lw=1.3, solid_capstyle="butt")
        axes.text(x, max(high, estimate.value) + 0.015, _percent(estimate), ha="center", va="bottom", size=8.5)


def _percent(estimate: Estimate | None, unit: str = "") -> str:
    if estimate is None or estimate.value is None:
        return canvas.NOT_MEASURED
    return f"{100 * estimate.value:.1f}{unit}"
