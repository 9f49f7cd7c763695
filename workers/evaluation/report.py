"""Measure parent and unlearned model once each and lay out the report."""

from dataclasses import dataclass

from workers.samples import LabelledSet


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSplits:
    """The sets a model is judged on. `audit` and `test` were seen by no training and no selection.

    `retain` and `forget` are what the method had; `test` is the whole test split, `audit` its audit half.
    """

    retain: LabelledSet
    forget: LabelledSet
    audit: LabelledSet
    test: LabelledSet
