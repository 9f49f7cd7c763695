"""The look all plots share, and their way to SVG. Uses no global state of the plotting library.

Colours are Okabe & Ito's, which people with any colour vision tell apart; line styles and labels repeat what they say.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

INK, FAINT, GRID = "#222222", "#5f5f5f", "#e4e4e4"
FORGET, UNSEEN = "#d55e00", "#0072b2"
MODEL_COLOURS = {"parent": "#8a8a8a", "unlearned": "#009e73", "retrained": "#cc79a7"}
MODEL_LINES = {"parent": "--", "unlearned": "-", "retrained": "-."}
MODEL_NAMES = {"parent": "parent (before)", "unlearned": "unlearned (after)", "retrained": "retrained"}
NOT_MEASURED = "not measured"

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unlearning-service",
    "path.simplify": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "mathtext.fontset": "dejavusans",
}
_PROLOGUE = re.compile(r"\A.*?(?=<svg)", re.DOTALL)
_FONTS = re.compile(r"'DejaVu Sans'(?:, [^;\"]*)?")


@contextmanager
def style() -> Iterator[None]:
    """Draw inside this: whatever the environment has configured does not matter there."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def figure(*, title: str, subtitle: str, footnote: str, width: float = 7.4, height: float = 4.6) -> Figure:
    """Return an empty figure of that size in inches, with its words; `room` says what is left for the axes."""
    made = Figure(figsize=(width, height), facecolor="white")
    made.text(0.16 / width, 1 - 0.14 / height, title, size=12.5, weight="bold", va="top")
    made.text(0.16 / width, 1 - 0.42 / height, subtitle, size=9.5, color=FAINT, va="top")
    made.text(0.16 / width, 0.1 / height, footnote, size=8, color=FAINT, va="bottom", linespacing=1.35)
    return made


def room(made: Figure, *, left: float = 0.75, right: float = 0.25, top: float = 0.8, bottom: float = 1.05) -> None:
    """Place the axes: margins in inches."""
    width, height = made.get_size_inches()
    made.subplots_adjust(left=left / width, right=1 - right / width, top=1 - top / height, bottom=bottom / height)


def say(axes: Axes, text: str) -> None:
    """Write the text in the middle of otherwise empty axes."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT, style="italic")


def plain(axis: Axis) -> None:
    """Label the axis' powers of ten as plain numbers, and nothing between them."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def headline(axes: Axes, model: str, words: Sequence[tuple[str, str]]) -> None:
    """Write the model's name above the axes on the left, and on the right each (text, colour), last one outermost."""
    axes.set_title(MODEL_NAMES[model], loc="left", size=10, weight="bold", pad=4)
    beside: Any = "axes fraction"
    at, gap = (1.0, 1.0), (0, 4)
    for text, colour in reversed(words):
        beside = axes.annotate(text, at, gap, xycoords=beside, textcoords="offset points", ha="right", va="bottom",
                               color=colour, size=9, weight="bold")  # fmt: skip
        at, gap = (0.0, 0.0), (-12, 0)


def to_svg(made: Figure, *, name: str, title: str, description: str) -> str:
    """Return the figure as SVG with a title and a description for those who cannot see it; no date, no reference
    to anything outside it."""
    buffer = io.StringIO()
    made.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = _FONTS.sub("'DejaVu Sans', Verdana, Arial, sans-serif", _PROLOGUE.sub("", buffer.getvalue(), count=1))
    words = f'<title id="{name}-title">{escape(title)}</title>\n <desc id="{name}-text">{escape(description)}</desc>'
    head, rest = text.split(">", 1)
    return f'{head} role="img" aria-labelledby="{name}-title {name}-text">\n {words}{rest}'
