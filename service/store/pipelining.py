"""Sending statements without waiting for each one's answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session


@contextmanager
def pipelined(session: Session) -> Iterator[None]:
    """Have the block's statements answered together at its end, where the driver can; elsewhere one by one.

    For statements whose result nobody reads. On PostgreSQL a failure comes at the end, as the driver's own error but
    for operational ones, which are SQLAlchemy's.
    """
    connection = session.connection().connection.driver_connection
    if isinstance(connection, psycopg.Connection) and psycopg.Pipeline.is_supported():
        try:
            with connection.pipeline():
                yield
        except psycopg.OperationalError as error:
            # A server that went away, or is full, is told like one that did so a statement before.
            raise OperationalError("the block", None, error) from error
    else:
        yield
