"""What a setting's text may look like, judged before anything is opened; no message repeats a value."""

from typing import Any

import fsspec
from pydantic import ValidationError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

_DATABASES = ("postgresql://", "postgresql+psycopg://", "sqlite://", "sqlite+pysqlite://")
_BROKERS = (
    "redis://", "rediss://", "redis+socket://", "sentinel://", "amqp://", "amqps://", "pyamqp://", "filesystem://",
    "memory://",
)  # fmt: skip


def database_url(value: str) -> str:
    """Return the URL of a database that the service has a driver for. Raises ValueError."""
    told = "a database is written postgresql+psycopg://user:password@host/name or sqlite:////folder/file.db"
    if value and not value.startswith(_DATABASES):
        raise ValueError(told)
    try:
        if value:
            make_url(value)
    except (ArgumentError, ValueError):
        raise ValueError(told) from None
    return value


def broker_url(value: str) -> str:
    """Return the URL of a broker that the service reaches. Raises ValueError."""
    if value and not value.startswith(_BROKERS):
        raise ValueError("a broker is written redis://, rediss:// (Redis, Valkey), amqp:// or amqps:// (RabbitMQ)")
    return value


def folder_url(value: str) -> str:
    """Return the path or URL of a place that fsspec knows how to reach. Raises ValueError."""
    scheme, separator, _ = value.partition("://")
    if separator and scheme.partition("::")[0] not in fsspec.available_protocols():
        raise ValueError("a place is written as a path, file://, s3://, or another scheme that fsspec knows")
    return value


def faults_of(error: ValidationError) -> list[str]:
    """Return one sentence per fault of the settings, each with the variable's name and without its value."""
    found: list[Any] = list(error.errors(include_input=False, include_context=False, include_url=False))
    names = ["_".join(map(str, fault["loc"])).upper() for fault in found]
    return [
        f"UNLEARN_{name}: {fault['msg']}" if name else fault["msg"] for name, fault in zip(names, found, strict=True)
    ]
