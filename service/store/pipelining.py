"""Sending statements without waiting for each one's answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.orm import Session


@contextmanager
def pipelined(session: Session) -> Iterator[None]:
    """Have the block's statements answered together at its end, where the driver can; elsewhere one by one.

    For statements whose result nobody reads. On PostgreSQL a failure comes at the end, as the driver's own error.
    """
    connection = session.connection().connection.driver_connection
    if isinstance(connection, psycopg.Connection) and psycopg.Pipeline.is_supported():
        with connection.pipeline():
            yield
    else:
        yield
