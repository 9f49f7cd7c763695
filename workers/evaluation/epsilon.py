"""The epsilon that an attack's error rates prove: how far from indistinguishable two sets of models are.

Triantafillou et al., arXiv:2406.09073 (the score of the NeurIPS 2023 unlearning challenge).
"""

import math

import numpy as np

from workers.evaluation.intervals import Floats


def epsilon_score(fpr: Floats, tpr: Floats, *, delta: float = 0.0) -> float | None:
    """Return the largest epsilon that any of the attack's thresholds shows, at least 0; larger is worse.

    For one threshold the larger of log((1 - delta - FPR) / FNR) and log((1 - delta - FNR) / FPR). One without
    any error shows infinity. One with a single error rate of 0 shows nothing, by the challenge's rule, since a
    finite number of runs cannot bound it. None when no threshold shows anything. A point estimate: no interval.
    """
    shown = [_at_threshold(float(f), 1 - float(t), delta) for f, t in zip(fpr, tpr, strict=True)]
    known = [value for value in shown if value is not None]
    return max(0.0, *known) if known else None


def _at_threshold(fpr: float, fnr: float, delta: float) -> float | None:
    if np.isnan([fpr, fnr]).any():
        return None
    if fpr <= 0 and fnr <= 0:
        return math.inf
    if fpr <= 0 or fnr <= 0:
        return None
    sides = [(1 - delta - fpr, fnr), (1 - delta - fnr, fpr)]
    return max((math.log(above / below) for above, below in sides if above > 0), default=None)
