"""How fast each model relearns the forgotten samples, beside samples it never saw."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from workers.evaluation.intervals import Floats
from workers.evaluation.plots import canvas
from workers.evaluation.plots.data import ModelSeries, PlotData, Relearned

POINTS, FLOOR, CEILING = 150, 1e-4, 20.0
TITLE = "Are the forgotten samples as hard to learn as new ones?"


def relearning_curves(data: PlotData) -> str:
    """Draw one panel per model, with shared axes, a line per seed and a dot where the target is reached."""
    models = data.shown()
    by = f" by {data.relearned_by}" if data.relearned_by else ""
    with canvas.style():
        made = canvas.figure(
            title=TITLE,
            subtitle=f"loss of a scratch copy trained on the set alone{by}, a line per seed; dots: target reached",
            footnote="Forgotten samples relearned much faster than unseen ones: knowledge remains. "
            "Equally fast: this probe found none.\n"
            f"Much slower is not better by itself, since a wrecked model is slow too: {data.use}.",
            width=3.0 + 2.5 * len(models),
            height=4.7,
        )
        panels = made.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)[0]
        canvas.room(made, left=0.85, top=1.35)
        made.subplots_adjust(wspace=0.08)
        low, high = _limits(models, data.target_loss)
        panels[0].set(yscale="log", ylim=(low, high), xlim=(-0.02 * _end(models), 1.04 * _end(models)))
        canvas.plain(panels[0].yaxis)
        panels[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panels[0].set_ylabel(f"mean loss on the set, {data.unit} (log scale)")
        for axes, (name, series) in zip(panels, models.items(), strict=True):
            _panel(axes, name, series, data)
        said = "; ".join(f"{canvas.MODEL_NAMES[name]}: {_said(m, data.max_steps)}" for name, m in models.items())
        return canvas.to_svg(
            made, name="relearning_curves", title=TITLE, description=f"Loss against relearning steps. {said}."
        )


def _sides(series: ModelSeries) -> list[tuple[str, str, Relearned | None]]:
    return [
        ("forget set", canvas.FORGET, series.relearned_forget),
        ("unseen controls", canvas.UNSEEN, series.relearned_unseen),
    ]


def _panel(axes: Axes, name: str, series: ModelSeries, data: PlotData) -> None:
    axes.set_title(canvas.MODEL_NAMES[name], loc="left", size=10, weight="bold", pad=30)
    axes.grid(color=canvas.GRID, lw=0.7)
    axes.set_xlabel("relearning steps")
    if data.target_loss is not None:
        axes.axhline(data.target_loss, color=canvas.INK, lw=1, ls="--")
        axes.text(0.985, data.target_loss, "target", transform=axes.get_yaxis_transform(),
                  size=8, ha="right", va="bottom")  # fmt: skip
    for row, (label, colour, relearned) in enumerate(_sides(series)):
        words = f"{label}: {_delay(relearned, data.max_steps)}"
        axes.annotate(words, (0, 1), (0, 17 - 13 * row), xycoords="axes fraction", textcoords="offset points",
                      color=colour, size=9, weight="bold")  # fmt: skip
        if relearned is not None:
            _lines(axes, relearned, colour, dashed=row == 1)


def _lines(axes: Axes, relearned: Relearned, colour: str, *, dashed: bool) -> None:
    for losses, delay in zip(relearned.losses, relearned.delays, strict=True):
        steps = _kept(len(losses))
        finite = np.where(np.isfinite(losses), np.maximum(losses, FLOOR), np.nan)
        axes.plot(steps, finite[steps], color=colour, lw=1.4, alpha=0.85, ls=(0, (4, 1.5)) if dashed else "-")
        if delay is not None and delay < len(losses):
            axes.plot([delay], [finite[delay]], "o" if not dashed else "s", color=colour, mec="white", ms=6, zorder=5)


def _kept(count: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return at most POINTS positions of a curve, its ends among them."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, POINTS)).round().astype(np.int64))


def _delay(relearned: Relearned | None, cap: int) -> str:
    if relearned is None:
        return canvas.NOT_MEASURED
    if relearned.reported is None:
        return f"not within {cap} steps"
    return f"{relearned.reported:g} step{'' if relearned.reported == 1 else 's'}"


def _said(series: ModelSeries, cap: int) -> str:
    return ", ".join(f"{label} {_delay(relearned, cap)}" for label, _, relearned in _sides(series))


def _curves(models: dict[str, ModelSeries]) -> list[Floats]:
    return [losses for m in models.values() for _, _, side in _sides(m) if side is not None for losses in side.losses]


def _end(models: dict[str, ModelSeries]) -> int:
    return max([10, *(len(losses) - 1 for losses in _curves(models))])


def _limits(models: dict[str, ModelSeries], target: float | None) -> tuple[float, float]:
    values = np.concatenate([*_curves(models), np.array([1.0 if target is None else target])])
    shown = values[np.isfinite(values) & (values > 0)]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.1, 1.0)
    low, high = max(low, FLOOR), min(max(high, FLOOR), CEILING)
    middle = (low * high) ** 0.5
    # a decade at least, so that noise does not look like a slope
    return min(low / 1.4, middle / 10**0.5), max(high * 1.4, middle * 10**0.5)
