"""Wrap request keys, keep their commitments, and note what the files are to be rid of

Keys stored before are wrapped when the API starts: a migration has no master key. Until then they are marked by a
NULL in ``wrapping`` and read as they are.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

WRAPPED_BYTES = 60


def upgrade() -> None:
    op.add_column("request_keys", sa.Column("wrapping", sa.String(length=16), nullable=True))
    op.add_column("request_keys", sa.Column("commitments", sa.LargeBinary(), nullable=True))
    op.add_column("request_keys", sa.Column("keep_until", sa.DateTime(timezone=True), nullable=True))
    op.create_index(op.f("ix_request_keys_keep_until"), "request_keys", ["keep_until"])
    # Wrapped before a downgrade, which leaves the keys as they are: not to be wrapped twice.
    keys = sa.table("request_keys", sa.column("key", sa.LargeBinary), sa.column("wrapping", sa.String))
    op.execute(keys.update().where(sa.func.length(keys.c.key) == WRAPPED_BYTES).values(wrapping="aes-256-gcm"))
    op.create_table(
        "file_traces",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("what", sa.String(length=32), nullable=False),
        sa.Column("noted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file_traces")),
    )


def downgrade() -> None:
    op.drop_table("file_traces")
    op.drop_index(op.f("ix_request_keys_keep_until"), "request_keys")
    for column in ("keep_until", "commitments", "wrapping"):
        op.drop_column("request_keys", column)
