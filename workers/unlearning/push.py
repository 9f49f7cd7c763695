"""How hard to push in the next max epoch, from the epochs measured so far. Ours, not SCRUB's; pure but for Push."""

import math
from collections.abc import Callable, Sequence

from workers.unlearning.selection import EpochRecord, Terms, loss_aim
from workers.unlearning.trajectory import Trajectory

Push = Callable[[], float | None]
"""Give the norm that the gradient is scaled to in the max epoch to come; None leaves it as it is."""

UNSETTLED_STRETCH = 2.0
WEAKEST, STRONGEST_UNSETTLED, STRONGEST_SETTLED = 0.02, 4.0, 32.0
"""Range of the norm, in units of the one it started with."""


def constant_push(norm: float | None) -> Push:
    """Return a push that never changes."""
    return lambda: norm


def governed_push(start: float | None, trajectory: Trajectory, *, unsettled: int = 0) -> Push:
    """Return a push that follows the run recorded in `trajectory`; a start of None stays none."""
    if start is None:
        return constant_push(None)
    norm = start

    def push() -> float:
        nonlocal norm
        if len(trajectory.records) > 1:
            norm = next_norm(norm, start, trajectory.records, trajectory.terms, unsettled=unsettled)
        return norm

    return push


def next_norm(norm: float, start: float, records: Sequence[EpochRecord], terms: Terms, *, unsettled: int = 0) -> float:
    """Return a norm that is larger while the forget loss is below its aim, and smaller above it.

    The aim stands still: it takes the reference's loss from the parent, since the student's rises with the
    push. In epochs up to `unsettled` it lies further out, as the fall of the rate brings much back; after them
    a push that cost too much accuracy is at least halved.
    """
    parent, last = records[0], records[-1]
    settled = len(records) > unsettled
    aim = loss_aim(parent, parent, stretch=1.0 if settled else UNSETTLED_STRETCH, margins=terms.margins)
    change = min(2.0, max(0.25, math.sqrt(aim / max(last.forget_loss, 1e-9))))
    if settled and last.selection_accuracy < terms.floor:
        change = min(change, 0.5)
    strongest = STRONGEST_SETTLED if settled else STRONGEST_UNSETTLED
    return min(strongest * start, max(WEAKEST * start, norm * change))
