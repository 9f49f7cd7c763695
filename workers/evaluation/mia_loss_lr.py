"""SCRUB's membership attack: can a logistic regression on the loss tell forget samples from unseen ones?

Kurmanji et al., NeurIPS 2023, arXiv:2302.09880, section 5: losses clipped to ±100, both sides of equal size and of
the same classes, accuracy over 5 stratified splits. 0.5 means that it cannot.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from workers.evaluation.intervals import Floats, cross_validated
from workers.evaluation.records import Records, refuse_shared_records
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import NOT_A_NUMBER, no_figure
from workers.evaluation.scores import Outputs, loss

NAME = "mia_loss_lr"
FOLDS = 5
MAX_LOSS = 100.0


def mia_loss_lr(
    forget: Outputs, controls: Outputs, *, seed: int, records: tuple[Records, Records] | None = None
) -> list[MetricResult]:
    """Return the cross-validated accuracy; the larger side is cut to the smaller one's size, at random.

    The caller draws `controls` of the forget set's classes. `records` are the ids of both sides, in one
    namespace: ValueError if a record stands on both.
    """
    if records is not None:
        refuse_shared_records(*records)
    rng = np.random.default_rng(seed)
    sides = [loss(*side).cpu().numpy() for side in (forget, controls)]
    n = min(map(len, sides))
    if not n:
        return [no_figure(NAME, "not_applicable", _too_few(sides))]
    if n < FOLDS:
        return [no_figure(NAME, "inconclusive", _too_few(sides), n=n)]
    if np.isnan(np.concatenate(sides)).any():
        return [no_figure(NAME, "inconclusive", NOT_A_NUMBER, n=n)]
    kept = [side[rng.permutation(len(side))[:n]] for side in sides]
    hits, trials = fold_hits(kept[0], kept[1], seed=seed)
    value = float(hits.sum() / trials.sum())
    return [MetricResult(name=NAME, value=value, ci95=cross_validated(hits, trials), n=n)]


def fold_hits(members: Floats, controls: Floats, *, seed: int) -> tuple[Floats, Floats]:
    """Return the right answers and the number asked in each fold, float64 (5,) each, from losses without NaN."""
    losses = np.clip(np.concatenate([members, controls]), -MAX_LOSS, MAX_LOSS)[:, None]
    is_member = np.repeat([1, 0], [len(members), len(controls)])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(losses, is_member)
    hits = np.zeros(FOLDS)
    trials = np.zeros(FOLDS)
    for fold, (fit, judge) in enumerate(folds):
        model = LogisticRegression(max_iter=1000).fit(losses[fit], is_member[fit])
        hits[fold] = np.sum(model.predict(losses[judge]) == is_member[judge])
        trials[fold] = len(judge)
    return hits, trials


def _too_few(sides: list[Floats]) -> str:
    return f"needs at least {FOLDS} samples on each side; there are {len(sides[0])} and {len(sides[1])}"
