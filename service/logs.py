"""Structured logs: one JSON line each, an action word first, ids bound at the boundary, no personal data."""

import logging
import sys
from typing import TextIO

import structlog


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
