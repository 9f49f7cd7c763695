"""Words of progress that mean something to the worker beside being shown. Loads no torch."""

EVALUATE = "evaluate"
"""Reported once, when the unlearned model exists and its measurement begins."""
REEXECUTE = "reexecute"
"""Reported while the unlearning is done a second time, to compare its weights with the first ones."""
