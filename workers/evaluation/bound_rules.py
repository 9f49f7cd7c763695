"""How one bound is judged: by a limit on the interval's edge or the value, by a band, or by the rules of relearning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from service.catalogue.bounds import DRAWN, DROPS, GATED_AUCS, RATIO, WIDEST_BAND, Bound, band_by_size, is_attack
from service.catalogue.metrics import METRICS

BoundVerdict = Literal["pass", "fail", "inconclusive", "untestable", "not_applicable"]
WORST_FIRST = ("fail", "inconclusive", "untestable", "not_applicable", "pass")
Figure = Mapping[str, Any]
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Hold the metrics of the unlearned model and of the original by name and split, and what is known besides.

    `relearning_noticed` says whether the relearning ratio told the original from a model that never saw the
    samples; None when nobody looked. `chance` is 1 / classes.
    """

    own: Mapping[tuple[str, str | None], Figure]
    parent: Mapping[tuple[str, str | None], Figure]
    relearning_noticed: bool | None = None
    classes_gone: tuple[int, ...] = ()
    chance: float | None = None

    def find(self, bound: Bound, *, parent: bool = False) -> Figure | None:
        """Return the figure a bound speaks of; a bound without a split means the only one there is."""
        figures = self.parent if parent else self.own
        if bound.split is not None:
            return figures.get((bound.metric, bound.split))
        found = [figure for (name, _), figure in figures.items() if name == bound.metric]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """One bound with its verdict. `limit` is what the figure was held against, `margin` the band's half-width."""

    bound: Bound
    verdict: BoundVerdict
    sentence: str
    value: float | None = None
    ci95: Interval | None = None
    n: int = 0
    limit: float | None = None
    margin: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dict."""
        return {
            **self.bound.model_dump(mode="json", exclude_none=True),
            "verdict": self.verdict,
            "sentence": self.sentence,
            "value": self.value,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "n": self.n,
            "limit": self.limit,
            "margin": self.margin,
        }


def rule(bound: Bound, figures: Figures) -> Ruling:
    """Judge one bound. Never raises on figures that are missing or not finite: they are inconclusive."""
    if bound.metric == RATIO and figures.classes_gone:
        return _with_whole_classes(bound, figures)
    return _rule(bound, figures)


def _rule(bound: Bound, figures: Figures) -> Ruling:
    figure = figures.find(bound)
    if figure is None and _of_gone_classes(bound) and not figures.classes_gone:
        return Ruling(bound=bound, verdict="not_applicable", sentence=f"{METRICS[bound.metric].title}: there are none.")
    if figure is None:
        return _unsure(bound, "it was not measured on this split")
    if figure["verdict"] == "not_applicable":
        # there was nothing to measure it on, which shows no more than too few samples do; a purpose's own measure
        # that has no meaning for the set asked for is another matter
        verdict: BoundVerdict = "inconclusive" if bound.metric in ("ic_err", "fgt_err") else "untestable"
        return _ruling(bound, figure, verdict, _reason(figure, "there is nothing to measure it on"))
    if is_attack(bound.metric) and band_by_size(int(figure["n"]), int(figure["n"])) > WIDEST_BAND:
        return _too_few(bound, figure)
    if not finite(figure.get("value")):
        return _ruling(bound, figure, "inconclusive", _reason(figure, "there is no figure"))
    if figure["verdict"] == "inconclusive" and bound.metric != RATIO:
        return _ruling(bound, figure, "untestable", _reason(figure, "the figure cannot tell at this size"))
    if bound.within is not None:
        return _band(bound, figure, figures)
    if bound.metric == RATIO:
        return _relearning(bound, figure, figures)
    return _limits(bound, figure, figures)


def _of_gone_classes(bound: Bound) -> bool:
    return METRICS[bound.metric].when == "whole classes" or (bound.metric, bound.split) == (DRAWN, "forget")


def _limits(bound: Bound, figure: Figure, figures: Figures) -> Ruling:
    scale = _scale(bound, figures)
    if scale is None:
        return _unsure(bound, f"the figure it is compared with ({bound.of}) is missing")
    low, high = _edges(bound, figure)
    if low is None or high is None:
        return _ruling(bound, figure, "inconclusive", "there is no interval")
    if bound.at_most is not None:
        limit = bound.at_most * scale
        verdict: BoundVerdict = "pass" if high <= limit else "fail" if low > limit else "inconclusive"
        if verdict != "pass" and _too_coarse(bound, figure, limit):
            verdict = "untestable"
        if verdict != "pass" or bound.at_least is None:
            return _ruling(bound, figure, verdict, _against(bound, figure, "at most", limit), limit=limit)
    limit = float(bound.at_least or 0) * scale
    verdict = "pass" if low >= limit else "fail" if high < limit else "inconclusive"
    return _ruling(bound, figure, verdict, _against(bound, figure, "at least", limit), limit=limit)


def _too_coarse(bound: Bound, figure: Figure, limit: float) -> bool:
    """Say whether a loss of utility is measured too coarsely to be held against this limit.

    A point drop whose interval reaches from below the limit may be noise where half the interval is wider than
    the limit; an edge cannot be kept by a model at half the limit where half the interval is wider than that half.
    A drop of more than twice a point limit, or beyond an edge's own, is no noise to be excused.
    """
    interval = _interval(figure)
    if bound.metric not in DROPS or bound.of is not None or interval is None or interval[0] > limit:
        return False
    half, value = (interval[1] - interval[0]) / 2, float(figure["value"])
    if bound.on == "value":
        return half > limit and value <= 2 * limit
    return half > limit / 2 and value <= limit


def _band(bound: Bound, figure: Figure, figures: Figures) -> Ruling:
    centre, n = _ideal(bound), int(figure["n"])
    margin = band_by_size(n, n) if bound.within == "by_size" else float(bound.within or 0)
    interval = _interval(figure)
    if interval is None:
        return _ruling(bound, figure, "inconclusive", "there is no interval", margin=margin)
    before = figures.find(bound, parent=True)
    known_before = None if before is None else _interval(before)
    outside = interval[1] < centre - margin or interval[0] > centre + margin
    # what lies wholly outside was given away by unlearning itself, which no earlier secrecy excuses
    if (
        bound.metric in GATED_AUCS
        and not outside
        and known_before is not None
        and _inside(known_before, centre, margin)
    ):
        text = "the original itself lay inside the band: membership was not detectable before"
        return _ruling(bound, figure, "not_applicable", text, limit=centre, margin=margin)
    inside = _inside(interval, centre, margin)
    verdict: BoundVerdict = "pass" if inside else "fail" if outside else "inconclusive"
    text = f"{_shown(figure)}, to lie within {centre:g} ± {margin:.3f}"
    return _ruling(bound, figure, verdict, text, limit=centre, margin=margin)


def _too_few(bound: Bound, figure: Figure) -> Ruling:
    """Say that an attack cannot tell at this size, whatever limit or band the policy names for it."""
    n = int(figure["n"])
    margin = band_by_size(n, n)
    text = f"{n} a side are too few: the band would be ± {margin:.2f}, at most ± {WIDEST_BAND:g} counts"
    return _ruling(bound, figure, "untestable", text, margin=margin if math.isfinite(margin) else None)


def _relearning(bound: Bound, figure: Figure, figures: Figures) -> Ruling:
    """Judge the ratio; a pass needs a test that could have failed, a fail needs none."""
    if figure["verdict"] == "inconclusive":
        return _ruling(bound, figure, "inconclusive", _reason(figure, "neither set was relearned within the cap"))
    plain = _limits(bound, figure, figures)
    if plain.verdict == "fail" or bound.at_least is None:
        return plain
    null = (figure.get("extra") or {}).get("null")
    if figures.relearning_noticed is False:
        text = "the original itself relearns the samples no sooner than unseen ones here, so a pass would show nothing"
        return _ruling(bound, figure, "untestable", text, limit=plain.limit)
    # an interval wholly below 1 shows that knowledge is left, whatever the noise
    reaches_one = (_edges(bound, figure)[1] or 0.0) >= 1.0
    lowest = null["ci95"][0] if null and null["ci95"] else math.inf
    excused = reaches_one and lowest <= float(figure["value"])
    if plain.verdict == "inconclusive" and excused and lowest < float(plain.limit or 0):
        text = f"even unseen samples against others reach only {lowest:.2f} at the lower edge at this size"
        return _ruling(bound, figure, "untestable", text, limit=plain.limit)
    return plain


def _with_whole_classes(bound: Bound, figures: Figures) -> Ruling:
    """Judge what is left of the forget set by its ratio, and what is of classes gone by accuracy; the worse holds."""
    rulings = [_whole_classes(bound, figures)]
    figure = figures.find(bound)
    if figure is not None and figure["verdict"] != "not_applicable":
        rulings.append(_rule(bound, figures))
    return min(rulings, key=lambda ruling: WORST_FIRST.index(ruling.verdict))


def _whole_classes(bound: Bound, figures: Figures) -> Ruling:
    """Where a class is gone unseen samples of it are no yardstick: the net must have lost the class on both.

    A model that draws must not draw it, by the word of a classifier that knows it.
    """
    accuracy = [figures.own.get(("gone_class_accuracy", split)) for split in ("forget", "unseen")]
    accuracy.append(figures.own.get((DRAWN, "forget")))
    known = [figure for figure in accuracy if figure is not None and finite(figure.get("value"))]
    if figures.chance is None or not known:
        return _unsure(bound, "a class is gone, and its accuracy was not measured")
    if any(figure["verdict"] == "inconclusive" for figure in known):
        return _unsure(bound, "a class is gone, and whether it is still drawn could not be told")
    worst = max(known, key=lambda figure: float(figure["value"]))
    low = (_interval(worst) or (float(worst["value"]),) * 2)[0]
    lost = float(worst["value"]) <= figures.chance
    verdict: BoundVerdict = "pass" if lost else "fail" if low > figures.chance else "inconclusive"
    text = f"a class is gone, so its accuracy stands in: {_shown(worst)}, at most chance ({figures.chance:.3f})"
    return _ruling(bound, worst, verdict, text, limit=figures.chance)


def _scale(bound: Bound, figures: Figures) -> float | None:
    if bound.of is None:
        return 1.0
    other = figures.find(bound, parent=True) if bound.of == "parent" else figures.own.get((bound.metric, "unseen"))
    value = None if other is None else other.get("value")
    return float(value) if value is not None and finite(value) else None


def _edges(bound: Bound, figure: Figure) -> tuple[float | None, float | None]:
    """Return the interval, open where the figure is a bound itself; the value twice for a bound on the value."""
    value = float(figure["value"])
    interval = (value, value) if bound.on == "value" else _interval(figure)
    if interval is None:
        return None, None
    if not figure.get("censored"):
        return interval
    # a ratio says which side of it is open; a delay at the cap is a lower bound
    side = (figure.get("extra") or {}).get("bound", "lower")
    return (interval[0], math.inf) if side == "lower" else (0.0, interval[1])


def _interval(figure: Figure) -> Interval | None:
    edges = figure.get("ci95")
    if not edges or not all(finite(edge) for edge in edges):
        return None
    return float(edges[0]), float(edges[1])


def _inside(interval: Interval, centre: float, margin: float) -> bool:
    return centre - margin <= interval[0] and interval[1] <= centre + margin


def _ideal(bound: Bound) -> float:
    ideal = METRICS[bound.metric].ideal
    return 0.0 if ideal is None else ideal


def finite(value: object) -> bool:
    """Say whether a figure is there and finite."""
    return isinstance(value, int | float) and math.isfinite(value)


def _reason(figure: Figure, otherwise: str) -> str:
    return str((figure.get("extra") or {}).get("reason", otherwise))


def _shown(figure: Figure) -> str:
    interval = _interval(figure)
    edges = "" if interval is None else f" (95 %: {interval[0]:.3f} to {interval[1]:.3f})"
    return f"{float(figure['value']):.3f}{edges}"


def _against(bound: Bound, figure: Figure, word: str, limit: float) -> str:
    what = "the value" if bound.on == "value" else "the interval"
    return f"{_shown(figure)}, {what} to be {word} {limit:.3f}"


def _unsure(bound: Bound, why: str) -> Ruling:
    return Ruling(bound=bound, verdict="inconclusive", sentence=f"{METRICS[bound.metric].title}: {why}.")


def _ruling(
    bound: Bound,
    figure: Figure,
    verdict: BoundVerdict,
    text: str,
    *,
    limit: float | None = None,
    margin: float | None = None,
) -> Ruling:
    value = figure.get("value")
    return Ruling(
        bound=bound,
        verdict=verdict,
        sentence=f"{METRICS[bound.metric].title}: {text}.",
        value=float(value) if value is not None and finite(value) else None,
        ci95=_interval(figure),
        n=int(figure.get("n", 0)),
        limit=limit,
        margin=margin,
    )
