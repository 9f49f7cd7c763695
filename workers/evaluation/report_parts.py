"""The parts that reports of every task share, laid out from figures measured elsewhere."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from service.catalogue.bounds import WIDEST_BAND, band_by_size
from service.catalogue.metrics import METRICS as CATALOGUE
from workers.evaluation.intervals import Floats
from workers.evaluation.measure import BySplit, Draws
from workers.evaluation.ranks import ranks_among_controls
from workers.evaluation.result import MetricResult

GENERAL_LIMITS = (
    "No measurement here proves erasure: each bounds what one attack or one observer finds.",
    "The unseen controls stand for the forgotten samples only as far as both come from one distribution.",
    "Copies of the model or of its outputs made before unlearning are not covered.",
)


class Clock:
    """Collect wall times by name, in seconds."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add what the block takes under that name."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def small_set_ranks(scores: tuple[Floats, Floats], draws: Draws) -> list[float | None] | None:
    """Return each forgotten sample's rank among the controls, sorted, where they are too few to test them together.

    The share of controls that look at least as trained-on: evenly spread when nothing is remembered. `scores` are of
    the pairs of the attack, larger for members.
    """
    pairs = draws.attack
    if not len(pairs) or band_by_size(len(pairs), len(pairs)) <= WIDEST_BAND:
        return None
    return sorted(ranks_among_controls(*scores), key=lambda rank: (rank is None, rank))


def planted_leak(parent_results: Sequence[MetricResult], *, attack: str) -> dict[str, Any]:
    """Return attack and relearning ratio on the parent, which did see the forget set: have they any power here?

    Not `noticed` means that the same figure of the unlearned model, however good, shows little.
    """
    by_name = {result.name: result.to_dict() for result in parent_results}
    told, ratio = by_name[attack], by_name["relearning_ratio"]
    return {
        **_leak(told, noticed="ci95" in told and told["ci95"][0] > 0.5),
        "relearning": _leak(ratio, noticed="ci95" in ratio and ratio["ci95"][1] < 1.0),
    }


def control_counts(labels: BySplit, draws: Draws, *, relearned: int) -> dict[str, Any]:
    """Return how many controls there were, and how many forget samples found none; `relearned` is a side's size."""
    pairs = draws.pairs
    wanted = torch.bincount(labels["forget"])
    matched = torch.bincount(labels["forget"][pairs.forget], minlength=len(wanted))
    short = {str(c): int(wanted[c] - matched[c]) for c in (wanted > matched).nonzero().flatten().tolist()}
    return {
        "forget": len(labels["forget"]),
        "audit": len(labels["audit"]),
        "matched": len(pairs),
        "attack": len(draws.attack.audit),
        "relearning": relearned,
        "unmatched_per_class": short,
    }


def limits(results: Sequence[MetricResult], *, beside: Sequence[str] = ()) -> list[str]:
    """Return what the figures do not prove: of those that are evidence, and of the metrics named beside them."""
    names = dict.fromkeys(x.name for x in results if CATALOGUE[x.name].kind == "evidence" or x.name in beside)
    lines = [f"{CATALOGUE[name].title}: {CATALOGUE[name].does_not_prove}" for name in names]
    return [*GENERAL_LIMITS, *lines]


def _leak(figure: Mapping[str, Any], *, noticed: bool) -> dict[str, Any]:
    shown = {key: figure.get(key) for key in ("name", "value", "ci95", "n")}
    return {**shown, "noticed": noticed}
