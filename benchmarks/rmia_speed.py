"""RMIA by sorting beside the N×Z form, and the threshold attack on a million scores.

The N×Z forms stand here as one would write them with arrays: float32 in blocks of samples, which is the faster way to
write it, and float64 with its whole ratio matrix kept (1.6 GB at 20,000 × 10,000; --matrix-gb bounds it). The priors
over the references are the same for all and are counted in all. Medians of repeats taken in turn.
"""

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.circumstances import circumstances
from workers.evaluation.intervals import Floats
from workers.evaluation.mia_threshold import balanced_accuracy
from workers.evaluation.rmia import Population, offline_prior, population_ratios, relative_scores
from workers.evaluation.roc import FPR_CONTROLS, auc_result, tpr_at_fpr

SAMPLES, POPULATION, REFERENCES, SEED = 20_000, 10_000, 4, 0
SCORES = 1_000_000
BLOCK = 50
MIN_FLOAT32, MIN_FLOAT64, MAX_SECONDS = 20.0, 200.0, 1.0
GAMMA = 2.0


def main() -> int:
    """Print the figures as JSON; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--population", type=int, default=POPULATION)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--matrix-gb", type=float, default=4.0, help="largest ratio matrix to keep, GB")
    given = parser.parse_args()
    figures = {**_relative(given), **_threshold(given.repeats)}
    missed = [
        name
        for name, kept in {
            f"{MIN_FLOAT32:.0f} times the float32 form": figures["times_float32"] >= MIN_FLOAT32,
            f"{MIN_FLOAT64:.0f} times the float64 form": (figures["times_float64"] or MIN_FLOAT64) >= MIN_FLOAT64,
            "scores equal to the float64 form": figures["equal_to_float64"] is not False,
            "threshold attack in under a second": figures["threshold_seconds"] < MAX_SECONDS,
        }.items()
        if not kept
    ]
    around = circumstances("numpy", "scipy")
    print(json.dumps({**figures, "targets_missed": missed, "settings": vars(given), "circumstances": around}, indent=2))
    return 1 if missed else 0


def _relative(given: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    n, z, k = given.samples, given.population, REFERENCES
    target, reference, seen = rng.random(n), rng.random((k, n)), rng.random((k, n)) < 0.5
    seen[0] = False
    population = Population(target=rng.random(z), reference=rng.random((k, z)))

    def priors() -> tuple[Floats, Floats]:
        return offline_prior(reference, seen), population_ratios(population)

    def by_sorting() -> Floats:
        prior, against = priors()
        return relative_scores(target, prior, against, gamma=GAMMA)

    def by_pairs(form: Callable[[Floats, Floats], Floats]) -> Floats:
        prior, against = priors()
        return form(target / prior, against)

    contenders: dict[str, Callable[[], Any]] = {
        "priors": priors,
        "sorted": by_sorting,
        "float32": lambda: by_pairs(_float32),
    }
    if n * z * 8 <= given.matrix_gb * 1e9:
        contenders["float64"] = lambda: by_pairs(_float64)
    seconds, scores = _in_turn(contenders, given.repeats)
    tracemalloc.start()
    contenders["sorted"]()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = "float64" in seconds
    return {
        "seconds": seconds,
        "times_float32": round(seconds["float32"] / seconds["sorted"], 1),
        "times_float64": round(seconds["float64"] / seconds["sorted"], 1) if whole else None,
        "equal_to_float64": bool(np.array_equal(scores["sorted"], scores["float64"])) if whole else None,
        "peak_bytes_per_sample": round(peak / (n + z), 1),
    }


def _float32(ratios: Floats, against: Floats) -> Floats:
    """Return the scores by N×Z divisions in float32, a block of samples at a time to stay in the cache."""
    x, z = ratios.astype(np.float32), against.astype(np.float32)
    gamma = np.float32(GAMMA)
    counts = [np.count_nonzero(x[i : i + BLOCK, None] / z[None, :] >= gamma, axis=1) for i in range(0, len(x), BLOCK)]
    shares: Floats = np.concatenate(counts) / len(z)
    return shares


def _float64(ratios: Floats, against: Floats) -> Floats:
    """Return the scores by N×Z divisions in float64, the ratio matrix kept whole."""
    matrix: NDArray[np.float64] = ratios[:, None] / against[None, :]
    shares: Floats = np.mean(matrix >= GAMMA, axis=1)
    return shares


def _threshold(repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    members, controls = rng.normal(0.1, 1, SCORES // 2), rng.normal(0, 1, SCORES // 2)
    contenders: dict[str, Callable[[], object]] = {
        "auc": lambda: auc_result("mia_threshold.phi.auc", members, controls),
        "true_positives": lambda: [tpr_at_fpr(members, controls, label) for label in FPR_CONTROLS],
        "balanced_accuracy": lambda: balanced_accuracy(members, controls),
    }
    seconds, _ = _in_turn(contenders, repeats)
    return {"scores": SCORES, "threshold_seconds": sum(seconds.values()), "threshold_attack": seconds}


def _in_turn(contenders: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Return each contender's median seconds over the repeats, and what its last run returned."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    found: dict[str, Any] = {}
    for _ in range(repeats):
        for name, run in contenders.items():
            started = time.perf_counter()
            found[name] = run()
            taken[name].append(time.perf_counter() - started)
    return {name: median(each) for name, each in taken.items()}, found


if __name__ == "__main__":
    sys.exit(main())
