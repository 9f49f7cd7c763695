"""The duty that signs a checkpoint every minute in which the log grew, whether or not somebody asks for one."""

from service.deps import Parts
from service.duties import Duty
from service.store import checkpoints

EVERY_SECONDS = 60.0


def sign(parts: Parts) -> None:
    checkpoints.fresh(parts.database, parts.settings)


DUTY = Duty(name="checkpoint", every_seconds=EVERY_SECONDS, run=sign)
