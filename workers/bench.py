"""What one worker process works with. Loads no torch."""

import os
import socket
import threading
from dataclasses import dataclass

from service.artifacts import ArtifactStore
from service.evidence.commitments import suppression_key
from service.settings import Settings
from service.store.session import Database
from workers.runner import Runner


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Settings, the open store and the child of one worker process."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    runner: Runner
    owner: str
    stopping: threading.Event

    @classmethod
    def open(cls, settings: Settings) -> "Bench":
        return cls(
            settings=settings,
            database=Database.open(settings),
            artifacts=ArtifactStore(settings.resolved_artifacts_url),
            runner=Runner(time_limit_seconds=settings.job_time_limit_seconds, idle_seconds=settings.child_idle_seconds),
            owner=f"{socket.gethostname()}:{os.getpid()}",
            stopping=threading.Event(),
        )

    @property
    def suppression_key(self) -> bytes:
        return suppression_key(self.settings.master_key_bytes)
