"""What a thread that ends by an error nobody caught leaves behind: one structured line, without the message.

Every thread has a boundary of its own that logs and goes on; this is for the one that was forgotten.
"""

import sys
import threading

import structlog

from service import logs

log = structlog.get_logger()


def of_threads() -> None:
    """Log what ends a thread, or is raised where nobody could catch it, instead of printing a traceback."""
    threading.excepthook = _of_thread
    sys.unraisablehook = _unraisable


def _of_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is None or isinstance(told.exc_value, SystemExit):
        return
    name = told.thread.name if told.thread is not None else None
    log.error("thread.broken", thread=name, error=told.exc_type.__name__, trace=logs.trace(told.exc_value))


def _unraisable(told: "sys.UnraisableHookArgs") -> None:
    if told.exc_value is not None:
        log.error("error.ignored", error=told.exc_type.__name__, trace=logs.trace(told.exc_value))
