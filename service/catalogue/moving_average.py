"""The moving average that the weights of a generation model hold beside themselves, by the names of its tensors."""

from collections.abc import Collection

AVERAGE, UPDATES = "ema.", "ema_updates"
"""How the average's tensors begin, and the one that counts its updates."""
MISSING = (
    f"the moving average of the weights is missing: for each 'net.…' tensor the one named '{AVERAGE}…', by which "
    f"images are drawn, and {UPDATES!r}, int64, how often it was updated; without one of your own, copy the 'net.…' "
    f"tensors and set {UPDATES!r} to 1"
)


def is_missing(tensors: Collection[str]) -> bool:
    """Say so of weights with these tensors, which are a generation model's."""
    return not any(name.startswith(AVERAGE) for name in tensors)
