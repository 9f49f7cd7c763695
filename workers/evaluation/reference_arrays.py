"""Lay out logits of an audited model and of reference models as the arrays that attacks read."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.evaluation.intervals import Floats
from workers.evaluation.reference_logits import ReferenceLogits
from workers.evaluation.rmia import Population
from workers.evaluation.scores import confidence, phi

Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditedSide:
    """One side of an attack under the audited model: logits (n, K), labels (n,), dataset positions (n,), on the CPU."""

    logits: Tensor
    labels: Tensor
    positions: Tensor

    def take(self, index: Tensor) -> "AuditedSide":
        """Return the samples at `index`, in that order."""
        return AuditedSide(logits=self.logits[index], labels=self.labels[index], positions=self.positions[index])


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceArrays:
    """Members, then controls, on one axis of n; Z population samples apart; k reference models.

    phi = log(p_y / (1 - p_y)) and confidence = p_y, float64: (n,) under the audited model, (k, n) under the
    references; `seen` bool (k, n) which reference was trained on the sample; `records` (n,) dataset positions.
    Samples without rows are left out and counted.
    """

    is_member: NDArray[np.bool_]
    records: NDArray[np.int64]
    seen: NDArray[np.bool_]
    phi: Floats
    reference_phi: Floats
    confidence: Floats
    reference_confidence: Floats
    population: Population
    members_without_rows: int
    controls_without_rows: int
    population_without_rows: int


def reference_arrays(
    references: ReferenceLogits, *, members: AuditedSide, controls: AuditedSide, population: AuditedSide
) -> ReferenceArrays:
    """Return what LiRA (phi) and RMIA (confidence) need to tell members from controls."""
    member_rows, control_rows = references.rows(members.positions), references.rows(controls.positions)
    others = references.population_rows(population.positions)
    sides = [members.take(member_rows.found), controls.take(control_rows.found)]
    population = population.take(others.found)
    both = AuditedSide(
        logits=torch.cat([side.logits for side in sides]),
        labels=torch.cat([side.labels for side in sides]),
        positions=torch.cat([side.positions for side in sides]),
    )
    logits = torch.cat((member_rows.logits, control_rows.logits), 1)
    return ReferenceArrays(
        is_member=np.arange(len(both.labels)) < len(sides[0].labels),
        records=both.positions.numpy(),
        seen=torch.cat((member_rows.in_mask, control_rows.in_mask), 1).numpy(),
        phi=phi(both.logits, both.labels).numpy(),
        reference_phi=_per_model(phi, logits, both.labels),
        confidence=confidence(both.logits, both.labels).numpy(),
        reference_confidence=_per_model(confidence, logits, both.labels),
        population=Population(
            target=confidence(population.logits, population.labels).numpy(),
            reference=_per_model(confidence, others.logits, population.labels),
        ),
        members_without_rows=member_rows.missing,
        controls_without_rows=control_rows.missing,
        population_without_rows=others.missing,
    )


def _per_model(score: Score, logits: Tensor, labels: Tensor) -> Floats:
    """Return a score of logits (k, n, K) as (k, n); model by model, since float64 logits of all would be large."""
    scores: Floats = torch.stack([score(of_one, labels) for of_one in logits]).numpy()
    return scores
