"""The child's line to its parent beside its answer, and how work ends that was asked to stop. Loads no torch."""

from collections.abc import Mapping
from typing import Any


class Stopped(Exception):
    """The worker was asked to end: what can be kept is kept, and the rest is left."""


class Line:
    """Carries messages to the parent, and its wish that the work stop; this one leads nowhere, and nobody wishes.

    `training`: a training that can be kept is under way, so that a stop waits for the end of its epoch.
    """

    training = False

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message."""

    def stopping(self) -> bool:
        """Say whether the parent asked for the work to stop."""
        return False
