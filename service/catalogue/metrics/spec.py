"""The shape in which a metric is described."""

from dataclasses import dataclass
from typing import Literal

from service.catalogue.tasks import CLASSIFICATION_ALONE, Task

Basis = Literal["none", "original", "unseen controls", "retrained", "reference models"]
Direction = Literal["higher", "lower", "target"]
When = Literal["always", "reference models", "retrained", "whole classes", "benchmarks", "inception weights"]


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """Describe one metric. `direction` "target": the nearer to `ideal`, from either side, the better.

    `when` says what a report needs to hold it: nothing, prepared reference models, a retrained version, forgotten
    classes of which nothing is left, or Inception's weights, which the operator provides. `tasks` names what models
    must be for to be measured by it; `lower_on` the splits on which lower is better although `direction` says higher.
    """

    id: str
    title: str
    formula: str
    source: str
    basis: Basis
    direction: Direction
    ideal: float | None
    kind: Literal["evidence", "smoke_test"]
    does_not_prove: str
    when: When = "always"
    tasks: frozenset[Task] = CLASSIFICATION_ALONE
    lower_on: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Name the computation that yields this metric: the id up to its first dot."""
        return self.id.split(".", 1)[0]


OURS = "defined here"
RELEARNING_SOURCE = "after Tran & Woo 2026, arXiv:2604.09391; the definition is ours"
