"""Words of progress that mean something to the worker beside being shown. Loads no torch."""

EVALUATE = "evaluate"
"""Reported once, when the unlearned model exists and its measurement begins."""
