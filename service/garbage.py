"""What the garbage collector need not look at."""

import gc


def long_lived() -> None:
    """Take what there is by now, which is what was imported and set up, out of all later collections.

    A full collection walks through hundreds of thousands of such objects, for up to a fifth of a second in which
    nothing else runs. And since it waits until the young ones are a quarter of all, garbage in cycles would pile up.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # of nothing: only a collection has the collector count what it would wait for a quarter of
