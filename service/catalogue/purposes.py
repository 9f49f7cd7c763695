"""Which purposes have a meaning for which task: each has its own idea of success, and not every model can show it."""

from collections.abc import Mapping

from service.catalogue.methods import Purpose
from service.catalogue.tasks import Task

NO_MEANING: Mapping[Task, Mapping[Purpose, str]] = {
    Task.CLASSIFICATION: {},
    Task.GENERATION: {
        "bias": "a learned bias is undone when a classifier errs on the samples that carried it, and a model that "
        "draws images makes no such errors",
        "confusion": "a confusion is undone when a classifier no longer takes one class for the other, and a model "
        "that draws images takes none for any",
    },
}
"""Of each task the purposes without meaning for it, and why, as a sentence's end."""
