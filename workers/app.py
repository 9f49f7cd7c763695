"""The Celery app: `python -m celery -A workers.app worker --pool threads --concurrency 1`.

Threads, because the one busy thread waits for the child while the process stays responsive; concurrency 1,
because a process owns one device.
"""

import os
import sys
import threading
from typing import Any

import structlog
from celery import Celery
from celery.signals import worker_init, worker_ready, worker_shutting_down
from sqlalchemy.exc import SQLAlchemyError

from service import faults, heap, last_words, logs
from service.broker import TASK, celery_config
from service.garbage import long_lived
from service.settings import Settings
from service.store import schema
from workers.bench import Bench
from workers.sweeper import Sweeper
from workers.tasks import run_all

log = structlog.get_logger()
settings = Settings()
app = Celery("unlearn")
app.conf.update(celery_config(settings))
_benches: list[Bench] = []


def bench() -> Bench:
    """Return what this process works with, opened on first use."""
    if not _benches:
        logs.configure(settings.log_level)
        faults.arm(settings.fault_points)
        _benches.append(Bench.open(settings))
    return _benches[0]


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def run(_job_id: str) -> None:
    """Answer the bell. Which job comes first is decided in SQL, not by the order of messages."""
    try:
        run_all(bench())
    except Exception as error:  # noqa: BLE001 - the library would log its message; the next sweep rings again
        log.error("bell.not_answered", error=type(error).__name__, trace=logs.trace(error))


@worker_init.connect  # type: ignore[untyped-decorator]
def _prepare(**_: Any) -> None:
    """End at once, with the reason, if the database's schema is not for this code; one that is away is waited for."""
    last_words.of_threads()
    heap.keep_little()
    try:
        schema.refuse_unfit(bench().database)
    except schema.SchemaUnfit as error:
        raise SystemExit(error.detail) from None
    except SQLAlchemyError:
        return


@worker_ready.connect  # type: ignore[untyped-decorator]
def _start(**_: Any) -> None:
    if os.environ.get("UNLEARN_EXIT_WITH_PARENT"):
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    Sweeper(bench(), lambda job_id: app.send_task(TASK, [job_id], retry=False)).start()
    long_lived()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    """Take no more work and have the attempt in hand come to an end; it goes back to the queue and is not counted.

    The second time at once: the child is killed.
    """
    if bench().stopping.is_set():
        bench().ending.set()
        bench().runner.close()
    bench().stopping.set()


def _exit_with_parent() -> None:
    """End when the process that started this one has gone, however it went: its pipe closes."""
    sys.stdin.read()
    bench().runner.close()
    os._exit(0)
