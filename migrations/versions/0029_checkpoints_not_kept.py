"""Count the checkpoints of a training for which there was no room

Revision ID: 0029
Revises: 0028
"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("checkpoints_not_kept", sa.Integer(), nullable=True))
    op.add_column("attempts", sa.Column("checkpoint_error", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("attempts", "checkpoint_error")
    op.drop_column("attempts", "checkpoints_not_kept")
