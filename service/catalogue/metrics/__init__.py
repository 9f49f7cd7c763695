"""What is measured, against what, and what each figure does not prove.

The functions stand in workers.evaluation; metrics that come from one computation share a family there.
"""

from service.catalogue.metrics.comparison import COMPARISON
from service.catalogue.metrics.generation import GENERATION
from service.catalogue.metrics.membership import MEMBERSHIP
from service.catalogue.metrics.purposes import PURPOSES
from service.catalogue.metrics.reference_attacks import REFERENCE_ATTACKS
from service.catalogue.metrics.relearning import RELEARNING
from service.catalogue.metrics.spec import Basis, Direction, MetricSpec, When
from service.catalogue.metrics.utility import UTILITY

METRICS: dict[str, MetricSpec] = {
    spec.id: spec
    for spec in [*UTILITY, *PURPOSES, *MEMBERSHIP, *REFERENCE_ATTACKS, *RELEARNING, *COMPARISON, *GENERATION]
}

__all__ = ["METRICS", "Basis", "Direction", "MetricSpec", "When"]
