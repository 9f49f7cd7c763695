"""Writes down when keys were last used: at most once a minute for each, and in no request."""

from service.deps import Parts
from service.duties import Duty
from service.store import keys

EVERY_SECONDS = 60.0


def write_down(parts: Parts) -> None:
    """Carry this process's memory of who used what to the store."""
    used = parts.seen.used()
    if not used:
        return
    with parts.database.writing() as session:
        keys.note_use(session, used)
    parts.seen.written(used)


DUTY = Duty(name="key-use", every_seconds=EVERY_SECONDS, run=write_down, everywhere=True)
