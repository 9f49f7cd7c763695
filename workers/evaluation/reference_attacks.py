"""Run the attacks that compare with reference models on one model's logits."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.evaluation.lira import lira_offline, lira_online
from workers.evaluation.measure import BySplit, Draws, timed
from workers.evaluation.reference_arrays import AuditedSide, reference_arrays
from workers.evaluation.reference_logits import ReferenceLogits
from workers.evaluation.result import MetricResult
from workers.evaluation.rmia import rmia


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedReferences:
    """The references' logits, and the dataset positions, int64 on the CPU, of the splits that are measured.

    `positions` has forget, audit and test in the order of their splits, and population, which is part of test.
    """

    logits: ReferenceLogits
    positions: Mapping[str, Tensor]


def reference_attacks(
    references: PlacedReferences, logits: BySplit, labels: BySplit, draws: Draws
) -> list[MetricResult]:
    """Return LiRA's and RMIA's figures for the forget set's pairs."""
    pairs = draws.attack
    sides = {name: _side(name, references, logits, labels) for name in ("forget", "audit", "test")}
    in_population = torch.isin(references.positions["test"], references.positions["population"]).nonzero().squeeze(1)
    arrays = reference_arrays(
        references.logits,
        members=sides["forget"].take(pairs.forget),
        controls=sides["audit"].take(pairs.audit),
        population=sides["test"].take(in_population),
    )
    phi, reference_phi, is_member = arrays.phi, arrays.reference_phi, arrays.is_member
    seen, records = arrays.seen, arrays.records
    return [
        *timed(lambda: lira_offline(phi, is_member, reference=reference_phi, seen=seen, records=records)),
        *timed(lambda: lira_online(phi, is_member, reference=reference_phi, seen=seen, records=records)),
        *timed(
            lambda: rmia(
                arrays.confidence,
                is_member,
                reference=arrays.reference_confidence,
                seen=seen,
                population=arrays.population,
                records=records,
            )
        ),
    ]


def _side(name: str, references: PlacedReferences, logits: BySplit, labels: BySplit) -> AuditedSide:
    return AuditedSide(logits=logits[name], labels=labels[name], positions=references.positions[name])
