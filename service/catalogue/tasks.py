"""What a model is for: to tell classes apart, or to make images of them."""

from enum import StrEnum


class Task(StrEnum):
    """The tasks that a model can be registered for."""

    CLASSIFICATION = "classification"
    GENERATION = "generation"


CLASSIFICATION_ALONE = frozenset({Task.CLASSIFICATION})
GENERATION_ALONE = frozenset({Task.GENERATION})
ANY_TASK = frozenset(Task)
NEEDS_LOGITS = "it reads a classifier's logits, and the model predicts noise"
NEEDS_A_HEAD = "it trains a classifier's last layers alone, and a noise predictor knows a class in all of its levels"
NOT_CARRIED_OVER = "it was made for classifiers and is not carried over to noise prediction"
"""Why a method has no meaning for generation, as a sentence's end."""
