"""Structured logs: one JSON line each, an action word first, ids bound at the boundary, no personal data.

What a line may carry is decided here, not where it is written: `redact` lets plain values pass under names that are
not known to hold personal data or secrets, and of everything else the type alone.
"""

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import date
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import structlog

TRACE_FRAMES, TRACE_ERRORS = 8, 8
REDACTED = "[redacted]"
# Whatever a caller sent, and whatever opens something. A name that ends in one of these, as `unresolved_sample_ids`
# does, counts too.
RISKY = (
    "sample_id", "sample_ids", "ids", "body", "content", "value", "values", "errors", "faults", "params", "parameters",
    "args", "receipt", "receipts", "item", "items", "key", "keys", "token", "secret", "password", "authorization",
    "cookie", "headers", "query", "url", "message", "exception", "stack",
)  # fmt: skip


def configure(level: str, stream: TextIO = sys.stderr) -> None:
    """Send structlog's lines to the stream as JSON; the standard library's warnings go there too."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            structlog.processors.EventRenamer("action"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(WithoutMessages("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def redact(_: Any, __: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Take out of a log line what may be personal data: a structlog processor."""
    return {name: _safe(name, value) for name, value in line.items()}


def _safe(name: str, value: object) -> object:
    last = name.lower().rsplit("_", 1)[-1]
    if name.lower() in RISKY or last in RISKY:
        return REDACTED
    if value is None or isinstance(value, bool | int | float | str | date):
        return value
    if isinstance(value, Mapping):
        return {str(inner): _safe(str(inner), each) for inner, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe("", each) for each in value]
    # An exception's text may quote parameters, a body's its ids.
    return f"<{type(value).__name__}>"


class WithoutMessages(logging.Formatter):
    """Formats the standard library's records; of an exception it prints type and place, never the message."""

    def formatException(  # noqa: N802 - the library's name
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return "\n".join(trace(ei[1])) if ei[1] is not None else ""


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
