"""Structured logs: one JSON line each, an action word first, ids bound at the boundary, no personal data."""

import logging
import sys
import traceback
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

import structlog

TRACE_FRAMES, TRACE_ERRORS = 8, 8


def configure(level: str, stream: TextIO = sys.stderr) -> None:
    """Send structlog's lines to the stream as JSON; the standard library's warnings go there too."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("action"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=stream, format="%(levelname)s %(name)s %(message)s")


def trace(error: BaseException) -> list[str]:
    """Return type and innermost frames of an exception and of those behind it, without any message."""
    return [_place(found) for found in islice(_behind(error), TRACE_ERRORS)]


def _behind(error: BaseException) -> Iterator[BaseException]:
    yield error
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _behind(part)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _behind(cause)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-TRACE_FRAMES:]
    places = [f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}" for frame in frames]
    return " > ".join([type(error).__name__, *places])
