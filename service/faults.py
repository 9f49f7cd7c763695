"""Named steps of a request's life at which a test may hold a process or make the step fail.

Nothing happens at a step unless `arm` named a folder and a test put a file of the step's name into it, holding one
`Act` as JSON. The process that comes first takes the file (it is renamed to ``<step>.at-<pid>``), so each file acts
once. A held process goes on when ``<step>.go`` appears.
"""

import json
import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

_LOOK_SECONDS = 0.02


class Step(StrEnum):
    """Where a process can be held, in the order of a request's life."""

    REQUEST_INSERTED = "request.inserted"
    REQUEST_COMMITTED = "request.committed"
    BELL_RUNG = "bell.rung"
    JOB_CLAIMED = "job.claimed"
    IN_EPOCH = "attempt.in_epoch"
    CHECKPOINT_STORED = "attempt.checkpoint_stored"
    ARTIFACT_WRITING = "artifact.writing"
    ARTIFACT_RENAMED = "artifact.renamed"
    BEFORE_PUBLISHING = "publishing.before"
    AFTER_PUBLISHING = "publishing.after"
    WEBHOOK_SENDING = "webhook.sending"
    WEBHOOK_SENT = "webhook.sent"
    PURGING = "purge.bytes_deleted"
    CERTIFICATE_ISSUING = "certificate.issuing"


class Act(TypedDict):
    """What happens at a step: it waits, or raises the OSError of a number."""

    do: Literal["hold", "fail"]
    errno: NotRequired[int]


_armed: list[Path] = []


def arm(folder: Path | None) -> None:
    """Look for acts in the folder from now on; None: at no step does anything happen."""
    _armed[:] = [folder] if folder is not None else []


def reach(step: Step) -> None:
    """Be held or fail here if a test asks for it. Raises OSError."""
    if _armed:
        _act(_armed[0], step)


def _act(folder: Path, step: Step) -> None:
    taken = folder / f"{step}.at-{os.getpid()}"
    try:
        (folder / step).rename(taken)
    except FileNotFoundError:
        return
    act: Act = json.loads(taken.read_text())
    if act["do"] == "fail":
        number = act.get("errno", 0)
        raise OSError(number, os.strerror(number))
    while not (folder / f"{step}.go").exists():
        time.sleep(_LOOK_SECONDS)
