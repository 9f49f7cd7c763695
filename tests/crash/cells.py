"""The cells of the crash matrix: at which step which process is hit by which signal, on which stack."""

import random
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from service.faults import Step

SIGNALS = ("KILL", "TERM", "STOP")
# A cell's erasure trains for one epoch and keeps no checkpoint: tests/e2e/test_resume.py hits a worker there.
STEPS = tuple(step for step in Step if step != Step.CHECKPOINT_STORED)


class Place(StrEnum):
    """What runs where. SQLite has one worker; PostgreSQL has two, so that another can take over."""

    FILES = "SQLite + files"
    SERVERS = "PostgreSQL + Valkey"
    EMBEDDED = "unlearn serve"


PROCESSES = {
    Place.FILES: ("API", "worker", "child"),  # a broker made of files has no process
    Place.SERVERS: ("API", "worker", "child", "broker"),
    Place.EMBEDDED: ("API", "worker", "child"),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    place: Place
    step: Step
    process: str
    signal: str

    @property
    def id(self) -> str:
        return f"{self.place.name.lower()}-{self.step}-{self.process}-{self.signal}"


def _of(place: Place) -> list[Cell]:
    found = product(STEPS, PROCESSES[place], SIGNALS)
    return [Cell(place=place, step=step, process=process, signal=signal) for step, process, signal in found]


_EMBEDDED = (
    (Step.REQUEST_COMMITTED, "API", "KILL"),
    (Step.BELL_RUNG, "API", "TERM"),
    (Step.JOB_CLAIMED, "worker", "KILL"),
    (Step.IN_EPOCH, "API", "KILL"),
    (Step.IN_EPOCH, "worker", "TERM"),
    (Step.IN_EPOCH, "child", "KILL"),
    (Step.ARTIFACT_RENAMED, "API", "TERM"),
    (Step.BEFORE_PUBLISHING, "worker", "STOP"),
    (Step.AFTER_PUBLISHING, "API", "KILL"),
    (Step.PURGING, "worker", "KILL"),
)
"""Of `unlearn serve` some: API and supervisor are one process there, and the worker ends with it."""

ALL = [
    *_of(Place.FILES),
    *_of(Place.SERVERS),
    *(Cell(place=Place.EMBEDDED, step=step, process=process, signal=signal) for step, process, signal in _EMBEDDED),
]


def sample(seed: int) -> list[Cell]:
    """Return eight cells: each signal on both stacks, one of a broker, and one more."""
    chosen = random.Random(seed)
    found: list[Cell] = []
    for place, name in product((Place.FILES, Place.SERVERS), SIGNALS):
        found.append(chosen.choice([cell for cell in _of(place) if cell.signal == name and cell.process != "broker"]))
    found.append(chosen.choice([cell for cell in _of(Place.SERVERS) if cell.process == "broker"]))
    found.append(chosen.choice([cell for cell in _of(Place.FILES) if cell not in found]))
    return sorted(found, key=lambda cell: list(Place).index(cell.place))
