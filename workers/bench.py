"""What one worker process works with. Loads no torch."""

import os
import socket
import threading
from dataclasses import dataclass, field

from service.evidence.commitments import suppression_key
from service.own_artifacts import OwnArtifacts
from service.settings import Settings
from service.store.session import Database
from workers.runner import Runner
from workers.worker_clock import WorkerClock


@dataclass(kw_only=True)
class Turns:
    """Where the sweeps have got to among what waits to be deleted, so that what cannot be deleted holds up nothing."""

    versions: str = ""
    detached: str = ""
    contents: str = ""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Settings, the open store and the child of one worker process.

    ``stopping``: it takes no more work, and what it does comes to an end; ``ending``: at once.
    """

    settings: Settings
    database: Database
    artifacts: OwnArtifacts
    runner: Runner
    owner: str
    stopping: threading.Event
    clock: WorkerClock = field(default_factory=WorkerClock)
    purges: Turns = field(default_factory=Turns)
    ending: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, settings: Settings) -> "Bench":
        database = Database.open(settings)
        artifacts = OwnArtifacts(settings.resolved_artifacts_url, database)
        artifacts.why_wrong()  # a first store is taken before the first bytes come; what is wrong is said at each claim
        return cls(
            settings=settings,
            database=database,
            artifacts=artifacts,
            runner=Runner(
                time_limit_seconds=settings.job_time_limit_seconds,
                idle_seconds=settings.child_idle_seconds,
                niceness=settings.child_niceness,
            ),
            owner=f"{socket.gethostname()}:{os.getpid()}",
            stopping=threading.Event(),
            clock=WorkerClock(limit=settings.max_clock_skew_seconds),
        )

    @property
    def suppression_key(self) -> bytes:
        return suppression_key(self.settings.master_key_bytes)
