"""Say exactly which samples a training's checkpoint knows

What earlier releases made says it by a count and a sum alone: that is deleted, and its training starts over.

Revision ID: 0025
Revises: 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("training_checkpoints", sa.Column("positions", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("training_checkpoints", "positions")
