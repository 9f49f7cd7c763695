"""The relative attack: on how large a share of the population does a sample's likelihood ratio dominate?

Zarifzadeh et al., ICML 2024, arXiv:2312.03262: score(x) = Pr_z[(p(x|θ)/p(x)) / (p(z|θ)/p(z)) >= γ]. Works in linear
space, on probabilities of the true label: there fl(a / b) >= γ says the same as a >= γ b for γ = 1 and for powers
of two, so sorting the population once gives the very scores of the N×Z definition; elsewhere ties may differ by one
unit in the last place. O((N + Z) log Z) time; no array is larger than the caller's.
"""

from dataclasses import dataclass

import numpy as np

from workers.evaluation.intervals import Floats
from workers.evaluation.lira import scored
from workers.evaluation.records import Records
from workers.evaluation.reference_models import (
    Bools,
    all_finite,
    check_reference,
    masked_mean,
    refuse_shared_by_side,
)
from workers.evaluation.result import MetricResult, Verdict
from workers.evaluation.roc import untold

OFFLINE_A = 0.3
"""p_in = a p_out + 1 - a. The paper's value for CIFAR-10; fixed, never tuned on the audited model."""
GAMMA = 2.0
SMALLEST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """Hold p(z|θ) of Z samples that no model was trained on: the audited model's (Z,), the references' (k, Z)."""

    target: Floats
    reference: Floats


def rmia(
    target: Floats,
    is_member: Bools,
    *,
    reference: Floats,
    seen: Bools,
    population: Population,
    gamma: float = GAMMA,
    a: float = OFFLINE_A,
    records: Records | None = None,
) -> list[MetricResult]:
    """Return AUC and true positive rates offline (p(x) from models that never saw x) and online (from both kinds).

    `target` (N,) and `reference` (k, N) are probabilities of the true label; `seen` bool (k, N). Samples without
    the models a variant needs are left out and counted in `extra`. `records` are the N ids: ValueError if a member
    and a control share one.
    """
    check_reference(target, is_member, reference, seen)
    check_reference(population.target, np.ones(len(population.target), bool), population.reference)
    if len(population.reference) != len(reference):
        raise ValueError("the population needs the same reference models as the samples")
    refuse_shared_by_side(records, is_member)
    if not len(population.target) or not len(reference):
        return _neither("not_applicable", "needs at least 1 population sample and 1 reference model")
    if not all(all_finite(values) for values in (reference, population.reference, [target], [population.target])):
        return _neither("inconclusive", "a probability is not a number, under the audited or a reference model")
    against = population_ratios(population, a=a)
    results = []
    for kind, prior in (("offline", offline_prior(reference, seen, a=a)), ("online", online_prior(reference, seen))):
        scores = relative_scores(target, prior, against, gamma=gamma)
        results += scored(f"rmia.{kind}", scores, is_member, len(reference))
    return results


def offline_prior(reference: Floats, seen: Bools, *, a: float = OFFLINE_A) -> Floats:
    """Return p(x) = ((1 + a) mean_out + 1 - a) / 2, float64 (N,); NaN for a sample that every model saw."""
    if not 0 <= a <= 1:
        raise ValueError(f"a must lie in [0, 1], not {a}")
    prior: Floats = ((1 + a) * masked_mean(reference, ~seen) + (1 - a)) / 2
    return prior


def online_prior(reference: Floats, seen: Bools) -> Floats:
    """Return p(x) = (mean_in + mean_out) / 2, float64 (N,); NaN for a sample without both kinds of models."""
    prior: Floats = (masked_mean(reference, seen) + masked_mean(reference, ~seen)) / 2
    return prior


def population_ratios(population: Population, *, a: float = OFFLINE_A) -> Floats:
    """Return p(z|θ) / p(z), float64 (Z,); p(z) is always the offline one, since no model saw z."""
    unseen = np.zeros(population.reference.shape, bool)
    ratios: Floats = population.target / np.maximum(offline_prior(population.reference, unseen, a=a), SMALLEST)
    return ratios


def relative_scores(target: Floats, prior: Floats, against: Floats, *, gamma: float = GAMMA) -> Floats:
    """Return the share of `against` (Z,) that target / prior reaches γ-fold, float64 (N,); NaN where the prior is.

    A sample of ratio 0 is reached by every ratio. Raises ValueError if γ is not positive or `against` is empty.
    """
    if not gamma > 0 or not len(against):
        raise ValueError("gamma must be positive and the population non-empty")
    ratios = target / np.maximum(prior, SMALLEST)  # a prior that underflowed must not divide by zero
    order = np.argsort(ratios)
    scores = np.empty(len(ratios))
    # in order, each search begins where the last one ended: several times as fast as at random
    scores[order] = np.searchsorted(np.sort(gamma * against), ratios[order], side="right") / len(against)
    scores[np.isnan(prior)] = np.nan
    return scores


def _neither(verdict: Verdict, reason: str) -> list[MetricResult]:
    return [*untold("rmia.offline", verdict, reason), *untold("rmia.online", verdict, reason)]
