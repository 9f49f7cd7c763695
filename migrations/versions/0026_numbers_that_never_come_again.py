"""Give no number of an erasure or a file's trace twice

On SQLite the number of a deleted row is given again, so whoever deleted what it had worked off could delete what came
since. PostgreSQL's sequences never go back.

Revision ID: 0026
Revises: 0025
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_TABLES: dict[str, tuple[tuple[str, Any], ...]] = {
    "erased_tokens": (("dataset_id", sa.String(length=40)), ("token", sa.LargeBinary(length=32))),
    "file_traces": (("what", sa.String(length=32)), ("noted_at", sa.DateTime(timezone=True))),
}


def upgrade() -> None:
    _rebuild(monotone=True)


def downgrade() -> None:
    _rebuild(monotone=False)


def _rebuild(*, monotone: bool) -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    for table, columns in _TABLES.items():
        op.rename_table(table, f"{table}_before")
        op.create_table(
            table,
            sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
            *(sa.Column(name, kind, nullable=False) for name, kind in columns),
            sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
            sqlite_autoincrement=monotone,
        )
        _move(table, ["id", *(name for name, _ in columns)])
        op.drop_table(f"{table}_before")


def _move(table: str, columns: Sequence[str]) -> None:
    names = ", ".join(columns)
    op.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM {table}_before")  # noqa: S608 - our own names
