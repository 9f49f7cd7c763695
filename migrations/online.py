"""What a migration uses to change a large table while the service works on it."""

from collections.abc import Sequence
from typing import Any

from alembic import op
from sqlalchemy import text


def create_index(name: str, table: str, columns: Sequence[str], **options: Any) -> None:
    """Create an index without keeping writers out, on PostgreSQL outside of any transaction.

    What was done before in the same migration is committed by this: let it stand alone, or last. An index that an
    earlier try left unfinished is made again.
    """
    if op.get_bind().dialect.name == "sqlite" or _in_callers_transaction():
        op.create_index(name, table, list(columns), **options)
        return
    with op.get_context().autocommit_block():
        bound = op.get_bind().scalar(text("SHOW lock_timeout"))
        # It waits for every transaction that is under way, and keeps nobody waiting meanwhile.
        op.execute("SET lock_timeout = 0")
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, list(columns), postgresql_concurrently=True, **options)
        op.execute(f"SET lock_timeout = '{bound}'")


def _in_callers_transaction() -> bool:
    """Say whether the tables are not there yet for anybody else, who could use them meanwhile."""
    config = op.get_context().config
    return config is not None and config.attributes.get("connection") is not None
