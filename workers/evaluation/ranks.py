"""Where each forgotten sample stands among the unseen controls, for sets too small for an attack's rate."""

import numpy as np

from workers.evaluation.intervals import Floats


def ranks_among_controls(members: Floats, controls: Floats) -> list[float | None]:
    """Return per member the share of controls that score at least as member-like; None without a score.

    Scores are signed toward membership. 0 means that no control looks as trained-on as this sample does. Controls
    whose score is NaN are left out; without any control all ranks are None. O((n + m) log m).
    """
    known = np.sort(controls[~np.isnan(controls)])
    if not len(known):
        return [None] * len(members)
    at_least = len(known) - np.searchsorted(known, members, side="left")
    return [
        None if missing else int(count) / len(known) for count, missing in zip(at_least, np.isnan(members), strict=True)
    ]
