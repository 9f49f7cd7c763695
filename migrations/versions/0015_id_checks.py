"""Count the ids each key has looked up a day

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "id_checks",
        sa.Column("principal_id", sa.String(length=40), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("principal_id", "day", name=op.f("pk_id_checks")),
    )


def downgrade() -> None:
    op.drop_table("id_checks")
