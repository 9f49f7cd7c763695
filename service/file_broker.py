"""The embedded broker: kombu's folder of message files, with each message written whole or not at all.

kombu's own transport opens the file under its final name and writes to it afterwards. A worker that polls in between
takes an empty file, and ends with it (kombu issue 1551).
"""

import uuid
from pathlib import Path
from time import monotonic
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps

TRANSPORT = f"{__name__}:Transport"
"""What Celery's `broker_transport` takes."""


class Channel(filesystem.Channel):  # type: ignore[misc]
    """Puts messages by renaming them into place, and passes over files that are none."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        """Put `payload` onto `queue`. Raises OSError when the folder cannot be written."""
        # the name sorts by age, as kombu's own; the dot in front keeps it from being taken for a message
        name = f"{round(monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
        folder = Path(self.data_folder_out)
        unfinished = folder / f".{name}"
        try:
            unfinished.write_text(dumps(payload))
            unfinished.replace(folder / name)
        except BaseException:
            unfinished.unlink(missing_ok=True)  # nobody else would remove it
            raise

    def _get(self, queue: str) -> Any:
        """Return the oldest message. A file that holds none has left the folder: SQL has the job rung for again."""
        while True:
            try:
                return super()._get(queue)
            except ValueError:
                continue


class Transport(filesystem.Transport):  # type: ignore[misc]
    """kombu's `filesystem` transport over that channel."""

    Channel = Channel
