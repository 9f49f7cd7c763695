"""KL divergence of margins (KLOM), per sample over many runs, less what runs of one kind read among themselves.

Georgiev et al. 2024, arXiv:2410.23232. The direction taken here is KL(retrained || unlearned).
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workers.evaluation.intervals import Floats, percentile_interval
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import NOT_A_NUMBER, no_figure
from workers.evaluation.scores import phi

NAME = "klom"
BINS, FLOOR, LARGEST = 20, 1e-5, 100.0
FEWEST_RUNS = 10
PERMUTATIONS = 200
BLOCK = 256


def margins(logits: Tensor, labels: Tensor) -> Floats:
    """Return phi of logits (R, M, K) of R runs on M samples with labels (M,), as (R, M)."""
    runs, samples, classes = logits.shape
    flat = phi(logits.reshape(-1, classes), labels.repeat(runs))
    found: Floats = flat.reshape(runs, samples).cpu().numpy()
    return found


def klom(unlearned: Floats, retrained: Floats, *, seed: int, permutations: int = PERMUTATIONS) -> MetricResult:
    """Return the mean over samples of KLOM minus its null; margins (R, M) of unlearned runs, (S, M) of retrained ones.

    The null: runs dealt anew to the two sides, whole runs at a time. The interval moves by the null's own spread,
    so that it covers 0 in 95 % of draws from equal runs; far from 0 it is only as wide as the null.
    `extra` has the figure before the null is taken off, in this and in the reverse order of arguments.
    Raises ValueError if the sides have unequal numbers of samples.
    """
    (runs, samples), (others, theirs) = unlearned.shape, retrained.shape
    if samples != theirs:
        raise ValueError(f"both sides need the margins of the same samples; there are {samples} and {theirs}")
    if min(runs, others) < 2 or not samples:
        reason = f"needs at least 2 runs on each side and 1 sample; there are {runs}, {others} and {samples}"
        return no_figure(NAME, "not_applicable", reason)
    if np.isnan(unlearned).any() or np.isnan(retrained).any():
        return no_figure(NAME, "inconclusive", NOT_A_NUMBER, n=samples)
    found, null = klom_per_sample(unlearned, retrained), _null(unlearned, retrained, seed, permutations)
    raw, (low, high) = float(found.mean()), percentile_interval(null)
    enough = min(runs, others) >= FEWEST_RUNS
    extra = {
        "raw": raw,
        "raw_reverse": float(klom_per_sample(retrained, unlearned).mean()),
        "null": float(null.mean()),
        "runs": [runs, others],
        "raw_quantiles": {q: float(np.quantile(found, q)) for q in (0.05, 0.5, 0.95)},
    }
    return MetricResult(
        name=NAME,
        value=raw - float(null.mean()),
        ci95=(raw - high, raw - low),
        n=samples,
        verdict="measured" if enough else "inconclusive",
        extra=extra if enough else {**extra, "reason": f"needs at least {FEWEST_RUNS} runs on each side"},
    )


def _null(unlearned: Floats, retrained: Floats, seed: int, permutations: int) -> Floats:
    """Return the mean over samples of KLOM for each of so many ways to deal all runs to the two sides."""
    dealt = np.concatenate([np.ones(len(unlearned)), np.zeros(len(retrained))])
    shuffled = np.random.default_rng(seed).permuted(np.tile(dealt, (permutations, 1)), axis=1)
    cells = _bins(np.concatenate([unlearned, retrained]))
    samples = cells.shape[1]
    sums = np.zeros(permutations)
    # in blocks: the counts of all samples under all ways at once would fill the memory
    for start in range(0, samples, BLOCK):
        sums += _divergences(cells[:, start : start + BLOCK], shuffled).sum(1)
    means: Floats = sums / samples
    return means


def klom_per_sample(unlearned: Floats, retrained: Floats) -> Floats:
    """Return KL(retrained || unlearned) of the binned margins of each sample, (M,), in nats; the null is still in it.

    20 equal bins over both sides' range, the last one closed; shares are floored at 1e-5 and scaled to 1.
    """
    dealt = np.concatenate([np.ones(len(unlearned)), np.zeros(len(retrained))])
    per_sample: Floats = _divergences(_bins(np.concatenate([unlearned, retrained])), dealt[None])[0]
    return per_sample


def _bins(values: Floats) -> NDArray[np.int64]:
    """Return the bin of each margin (runs, M) within its sample's range."""
    values = values.clip(-LARGEST, LARGEST)
    low, high = values.min(0), values.max(0)
    width = np.where(high > low, high - low, 1.0)
    # the largest margin belongs to the last bin, whose right edge it is
    cells: NDArray[np.int64] = np.minimum((values - low) / width * BINS, BINS - 1).astype(np.int64)
    return cells


def _divergences(cells: NDArray[np.int64], dealt: Floats) -> Floats:
    """Return KL (P, M) for each of P ways (P, runs) to deal the runs: 0 to its first argument, 1 to its second."""
    one_hot = (cells[:, :, None] == np.arange(BINS)).reshape(len(cells), -1).astype(np.float64)
    p, q = (_shares(side @ one_hot, cells.shape[1]) for side in (1 - dealt, dealt))
    divergences: Floats = np.sum(p * np.log(p / q), axis=2)
    return divergences


def _shares(counts: Floats, samples: int) -> Floats:
    shaped = counts.reshape(len(counts), samples, BINS)
    floored = np.maximum(shaped / shaped.sum(2, keepdims=True), FLOOR)
    shares: Floats = floored / floored.sum(2, keepdims=True)
    return shares
