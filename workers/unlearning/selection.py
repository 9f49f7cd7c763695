"""Choose the epoch to return from the measurements of all. Pure functions of numbers.

The rewind is SCRUB+R's (Kurmanji et al., NeurIPS 2023, arXiv:2302.09880): the epoch whose forget error is
nearest the error on held-out samples of the forget set's class mix, measured on the final state.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from workers.task import Margins

IN_NATS = Margins()
GONE_ERROR = 0.98
"""Share of a class of which nothing stays that should be wrong; a model that never saw it has them all wrong."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """Measure one epoch's state; errors and accuracies are shares, losses the task's. Epoch 0 is the parent.

    `objectives` are the method's own mean losses of that epoch.
    """

    epoch: int
    forget_error: float
    forget_loss: float
    reference_error: float
    reference_loss: float
    selection_accuracy: float
    selection_loss: float
    objectives: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a choice must keep to: the accuracy floor, and the sizes that say how sharp the errors are.

    `comfortable` is a floor that leaves half of the allowed drop in reserve, since the pool is a sample. A
    `reference_count` of 0 says that there is no pool. `all_gone`: no class of the forget set stays. `margins` are the
    task's: what its losses are told apart by.
    """

    floor: float
    comfortable: float
    forget_count: int
    reference_count: int
    all_gone: bool = False
    margins: Margins = IN_NATS


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Name the epoch chosen and the rule; `boundary` when the rule would rather have taken the parent."""

    epoch: int
    rule: str
    boundary: bool = False


Chooser = Callable[[Sequence[EpochRecord], Terms], Choice]
"""Choose from the records, the parent's first, of which at least one later one is within the floor."""


def within_floor(records: Sequence[EpochRecord], floor: float) -> list[EpochRecord]:
    """Return the epochs, the parent apart, whose selection accuracy is at or above the floor."""
    return [record for record in records if record.epoch > 0 and record.selection_accuracy >= floor - 1e-12]


def last_within(records: Sequence[EpochRecord], terms: Terms) -> Choice:
    """Choose the last epoch that keeps accuracy."""
    return Choice(epoch=within_floor(records, terms.floor)[-1].epoch, rule="last epoch within the floor")


def rewind_by_error(records: Sequence[EpochRecord], terms: Terms) -> Choice:
    """Choose argmin over k of |forget error(k) - reference error(E)|; the paper's rule.

    Ties go to the nearer loss, then to the first. E is the last epoch recorded. k runs from 0, the parent;
    when it wins, the best k >= 1 is taken and the choice flagged as boundary.
    """
    final = records[-1]

    def gap(record: EpochRecord) -> tuple[float, float, int]:
        error = round(abs(record.forget_error - final.reference_error), 9)
        return error, abs(record.forget_loss - final.reference_loss), record.epoch

    best = min(within_floor(records, terms.floor), key=gap)
    return Choice(epoch=best.epoch, rule="paper", boundary=gap(records[0]) < gap(best))


def rewind_clear_of_known(records: Sequence[EpochRecord], terms: Terms, *, settled_after: int = 0) -> Choice:
    """Choose by the paper's rule with our tie-break, made for sets whose errors are near 0 on both sides.

    Errors that a 95 % test of two rates cannot tell from the reference count as tied. Where every forgotten class is
    gone, first come epochs that get GONE_ERROR of the forget set wrong, or nearest to it. Then come epochs clear of
    what counts as still known, or nearest to it; then ties; then those not pushed too far; then those above the
    comfortable floor; then the lowest loss on the selection pool, which tells more than its few errors. Epochs up
    to `settled_after`, whose rate is yet to fall, are taken only when no later one keeps accuracy.
    """
    parent, final = records[0], records[-1]

    def gap(record: EpochRecord) -> tuple[float, ...]:
        return _service_gap(record, parent, final, terms)

    kept = within_floor(records, terms.floor)
    best = min([record for record in kept if record.epoch > settled_after] or kept, key=gap)
    return Choice(epoch=best.epoch, rule="service", boundary=gap(parent) < gap(best))


def calibrate_on_unseen(records: Sequence[EpochRecord], terms: Terms) -> Choice:
    """Choose among states that do not follow from one another, such as one per strength of a one-shot method.

    As the service's rewind, but each state's forget error is held against its own error on the pool: there is no
    final state. Falls back on the first forgotten as rewind_where_it_can does, the gentlest state coming first.
    """
    if wants_first_forgotten(terms):
        return first_forgotten(records, terms)

    def gap(record: EpochRecord) -> tuple[float, ...]:
        return _service_gap(record, records[0], record, terms)

    best = min(within_floor(records, terms.floor), key=gap)
    return Choice(epoch=best.epoch, rule="calibrated on unseen samples", boundary=gap(records[0]) < gap(best))


def _service_gap(record: EpochRecord, parent: EpochRecord, reference: EpochRecord, terms: Terms) -> tuple[float, ...]:
    """Return what the service's choice minimises; the reference's error and loss on the pool are what is aimed at."""
    wrong = GONE_ERROR if terms.all_gone else 0.0
    error = abs(record.forget_error - reference.reference_error)
    return (
        round(max(0.0, wrong - record.forget_error), 9),
        round(max(0.0, clear_loss(parent, terms.margins) - record.forget_loss), 9),
        0.0 if error <= error_tolerance(reference.reference_error, terms) else round(error, 9),
        record.forget_loss > terms.margins.too_far * loss_aim(parent, reference, margins=terms.margins),
        record.selection_accuracy < terms.comfortable,
        record.selection_loss,
        record.epoch,
    )


def first_forgotten(records: Sequence[EpochRecord], terms: Terms) -> Choice:
    """Choose the first epoch within the floor that is clear of what counts as known.

    Where every forgotten class is gone, GONE_ERROR of the forget set must be wrong as well. With a selection pool
    the lowest loss on it goes before the first. With no such epoch the nearest is taken and the choice flagged as
    boundary.
    """

    def gap(record: EpochRecord) -> tuple[float, float]:
        return _gap_to_forgotten(record, records[0], terms)

    # without a pool every loss on it reads 0
    best = min(within_floor(records, terms.floor), key=lambda record: (gap(record), record.selection_loss))
    return Choice(epoch=best.epoch, rule="first forgotten", boundary=gap(best) > (0.0, 0.0))


def wants_first_forgotten(terms: Terms) -> bool:
    """Say whether there is nothing to compare the forget set with, so that the first that has forgotten it is taken."""
    return terms.all_gone or not terms.reference_count


def has_forgotten(record: EpochRecord, parent: EpochRecord, terms: Terms) -> bool:
    """Say whether an epoch lacks nothing that `first_forgotten` asks for."""
    return record.epoch > 0 and _gap_to_forgotten(record, parent, terms) == (0.0, 0.0)


def _gap_to_forgotten(record: EpochRecord, parent: EpochRecord, terms: Terms) -> tuple[float, float]:
    wrong = GONE_ERROR if terms.all_gone else 0.0
    clear = clear_loss(parent, terms.margins)
    return round(max(0.0, wrong - record.forget_error), 9), round(max(0.0, clear - record.forget_loss), 9)


def rewind_where_it_can(records: Sequence[EpochRecord], terms: Terms) -> Choice:
    """Choose by the service's rewind, or the first forgotten where there is nothing to compare with.

    That is without a selection pool, and where every forgotten class is gone: then the errors of the pool on
    these classes follow those of the forget set.
    """
    if wants_first_forgotten(terms):
        return first_forgotten(records, terms)
    return rewind_clear_of_known(records, terms)


def clear_epochs(records: Sequence[EpochRecord], terms: Terms, *, settled_after: int = 0) -> int:
    """Count the epochs after `settled_after` that are clear of what counts as known, accurate, and not too far."""
    parent, final = records[0], records[-1]
    margins = terms.margins
    clear, far = clear_loss(parent, margins), margins.too_far * loss_aim(parent, final, margins=margins)
    kept = within_floor(records, terms.comfortable)
    return sum(record.epoch > settled_after and clear <= record.forget_loss <= far for record in kept)


def loss_aim(parent: EpochRecord, reference: EpochRecord, *, stretch: float = 1.0, margins: Margins = IN_NATS) -> float:
    """Return the forget loss to aim at: a little above the reference's, and clear of still known.

    A set whose loss only equals that of unseen samples is relearned sooner than they are.
    """
    aim = stretch * margins.above_reference * reference.reference_loss
    return max(aim, still_known_loss(parent, margins) + margins.clear)


def clear_loss(parent: EpochRecord, margins: Margins = IN_NATS) -> float:
    """Return the forget loss from which on an epoch is clear of what counts as known."""
    return still_known_loss(parent, margins) + margins.clear / 2


def still_known_loss(parent: EpochRecord, margins: Margins = IN_NATS) -> float:
    """Return the loss up to which the forget set counts as not forgotten."""
    return margins.known_factor * parent.forget_loss + margins.known_offset


def error_tolerance(reference_error: float, terms: Terms) -> float:
    """Return the difference of two error rates that a 95 % test cannot tell from 0.

    The reference's rate is drawn to one half by two errors in four (Agresti & Coull 1998), so that a pool
    without any error still has a width.
    """
    p = (reference_error * terms.reference_count + 2) / (terms.reference_count + 4)
    return 1.96 * math.sqrt(p * (1 - p) * (1 / terms.forget_count + 1 / terms.reference_count)) + 1e-9


def chooser_for(rewind: str, *, settled_after: int = 0) -> Chooser:
    """Return the rule that an option `rewind` names; `settled_after` concerns the service's alone.

    "none" is the last epoch that keeps accuracy. Raises KeyError for another name.
    """
    rules: dict[str, Chooser] = {
        "service": partial(rewind_clear_of_known, settled_after=settled_after),
        "paper": rewind_by_error,
        "none": last_within,
    }
    return rules[rewind]
