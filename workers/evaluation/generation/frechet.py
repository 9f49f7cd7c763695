"""The Fréchet distance between two sets of features, each taken for a Gaussian.

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))

Dowson & Landau, Journal of Multivariate Analysis 1982; on the features of a network as by Heusel et al., NeurIPS 2017,
arXiv:1706.08500. Theirs are Inception's and the figure is called FID; these are a small classifier's, trained here on
the data at hand, and no FID is comparable with it.
"""

from dataclasses import dataclass

import numpy as np

from workers.evaluation.intervals import Z95, Floats, Interval

GROUPS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Mean (d,) and covariance (d, d)."""

    mean: Floats
    covariance: Floats


def moments(features: Floats, weights: Floats | None = None) -> Moments:
    """Return the moments of features (n, d), n > 1, each counting by its weight (n,) where such are given."""
    if len(features) < 2:
        raise ValueError("a covariance needs 2 samples at least")
    # aweights: how much a sample counts, not how often it was seen
    covariance = np.atleast_2d(np.cov(features, rowvar=False, aweights=weights))
    return Moments(mean=np.average(features, axis=0, weights=weights), covariance=covariance)


def frechet_distance(ours: Moments, theirs: Moments) -> float:
    """Return d^2, in squared units of a feature; 0 for equal moments, also of covariances without full rank."""
    root = _root(ours.covariance)
    # equal to the trace of (C1 C2)^(1/2), and symmetric, so that nothing turns complex
    middle = np.linalg.eigvalsh(root @ theirs.covariance @ root)
    shared = float(np.sqrt(np.maximum(middle, 0)).sum())
    apart = float(np.square(ours.mean - theirs.mean).sum())
    return max(0.0, apart + float(np.trace(ours.covariance) + np.trace(theirs.covariance)) - 2 * shared)


def jackknife_interval(features: Floats, reference: Moments, *, groups: int = GROUPS) -> Interval | None:
    """Return the normal interval of the distance of features (n, d) to the reference, by leaving out groups in turn.

    Samples that follow one another make a group, so that where classes come in turn each has as many of all as it can:
    without a whole class the distance would be another. A bootstrap would shrink the covariance by what it repeats.
    None below two samples a group.
    """
    n = len(features)
    if n < 2 * groups:
        return None
    cut = np.array_split(np.arange(n), groups)
    left = [frechet_distance(moments(np.delete(features, group, axis=0)), reference) for group in cut]
    half = Z95 * float(np.std(left)) * (groups - 1) ** 0.5
    value = frechet_distance(moments(features), reference)
    return max(0.0, value - half), value + half


def class_weights(labels: Floats) -> Floats:
    """Return a weight (n,) per sample by which every class of labels (n,) counts alike; they sum to 1."""
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: Floats = 1.0 / (len(classes) * counts[inverse])
    return weights


def _root(covariance: Floats) -> Floats:
    """Return the symmetric square root; rounding may leave eigenvalues a hair below 0."""
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
