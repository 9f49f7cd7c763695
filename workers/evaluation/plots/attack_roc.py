"""The membership attack's ROC on log axes: how many forgotten samples are found at how few false alarms."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from workers.evaluation.intervals import Floats
from workers.evaluation.plots import canvas
from workers.evaluation.plots.data import Estimate, ModelSeries, PlotData

POINTS = 300
TRUSTED_FALSE_ALARMS = 10
TITLE = "Can an attacker tell the forgotten samples from unseen ones?"


def attack_roc(data: PlotData) -> str:
    """Draw the ROC of thresholds on phi for each model, beside chance."""
    models = data.shown()
    with canvas.style():
        made = canvas.figure(
            title=TITLE,
            subtitle=f"ROC of a threshold on {data.score}; on the dotted line the attacker only guesses",
            footnote="One attack at these sample sizes: a stronger attack may find more.\n"
            "The parent shows what the attack could find before; where that is chance too, the plot says little.",
            height=5.6,
        )
        axes = made.subplots()
        canvas.room(made, left=0.95, right=2.25)
        lowest = 0.5 / max(10, *(max(len(m.phi_forget), len(m.phi_unseen)) for m in models.values()))
        _frame(axes, lowest, controls=max(len(m.phi_unseen) for m in models.values()))
        for name, series in models.items():
            _line(axes, name, series, lowest)
        axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), frameon=False, handlelength=2.2, fontsize=9,
                    borderaxespad=0, labelspacing=1.1)  # fmt: skip
        said = "; ".join(f"{canvas.MODEL_NAMES[name]}: {_auc(m)}" for name, m in models.items())
        return canvas.to_svg(
            made, name="attack_roc", title=TITLE, description=f"True against false positive rate, log axes. {said}."
        )


def curve(members: Floats, controls: Floats, at: Floats) -> Floats:
    """Return the true positive rate at each false positive rate of `at`, (P,); ties are split at random."""
    thresholds = np.unique(np.concatenate([members, controls]))[::-1]
    above = np.searchsorted(np.sort(members), thresholds), np.searchsorted(np.sort(controls), thresholds)
    tpr = np.concatenate([[0.0], 1 - above[0] / len(members)])
    fpr = np.concatenate([[0.0], 1 - above[1] / len(controls)])
    rates: Floats = np.interp(at, fpr, tpr)
    return rates


def _measured(series: ModelSeries) -> bool:
    sides = (series.phi_forget, series.phi_unseen)
    return all(len(side) > 0 and not np.isnan(side).any() for side in sides)


def _line(axes: Axes, name: str, series: ModelSeries, lowest: float) -> None:
    label = f"{canvas.MODEL_NAMES[name]}\n{_auc(series)}".replace(" (95", "\n(95")
    colour, dashes = canvas.MODEL_COLOURS[name], canvas.MODEL_LINES[name]
    x = np.geomspace(lowest, 1, POINTS)
    y = curve(series.phi_forget, series.phi_unseen, x) if _measured(series) else np.full(POINTS, np.nan)
    axes.plot(x, np.maximum(y, lowest / 10), dashes, drawstyle="steps-post", color=colour, lw=2, label=label)


def _auc(series: ModelSeries) -> str:
    auc: Estimate = series.auc
    if not _measured(series) or auc.value is None:
        return canvas.NOT_MEASURED
    within = f" (95 %: {auc.ci95[0]:.3f} to {auc.ci95[1]:.3f})" if auc.ci95 else ""
    return f"AUC {auc.value:.3f}{within}"


def _frame(axes: Axes, lowest: float, *, controls: int) -> None:
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.06))
    axes.set_xlabel("unseen samples wrongly taken for trained-on (false positive rate)")
    axes.set_ylabel("forgotten samples found (true positive rate)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g} %"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(color=canvas.GRID, lw=0.7)
    axes.plot([lowest, 1], [lowest, 1], ":", color=canvas.INK, lw=1.2, label="chance\nAUC 0.5")
    if controls:
        edge = min(1.0, TRUSTED_FALSE_ALARMS / controls)
        axes.axvspan(lowest, edge, color="#f3f3f3", lw=0, zorder=0)
        axes.text(lowest * 1.1, 1.0, f"fewer than {TRUSTED_FALSE_ALARMS} false alarms: mostly noise",
                  size=8, color=canvas.FAINT, va="top")  # fmt: skip
