"""Keep erasures until the journal has them, and say which restores are not over

Revision ID: 0022
Revises: 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "erased_tokens",
        sa.Column("id", number, autoincrement=True, nullable=False),
        sa.Column("dataset_id", sa.String(length=40), nullable=False),
        sa.Column("token", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erased_tokens")),
    )
    # What was suppressed before there was a journal; in the order of the tokens, which tells nothing of when.
    op.execute(
        "INSERT INTO erased_tokens (dataset_id, token) "
        "SELECT dataset_id, token FROM suppressions ORDER BY dataset_id, token"
    )
    op.create_table(
        "restores",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("backup_id", sa.String(length=40), nullable=False),
        sa.Column("backup_at", moment, nullable=False),
        sa.Column("log_size", number, nullable=False),
        sa.Column("restored_at", moment, nullable=False),
        sa.Column("finished_at", moment, nullable=True),
        sa.Column("found", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_restores")),
    )


def downgrade() -> None:
    op.drop_table("restores")
    op.drop_table("erased_tokens")
