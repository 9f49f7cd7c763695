"""Say of each webhook event how far the log went when it happened

Revision ID: 0030
Revises: 0029
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("webhook_events", sa.Column("log_size", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("webhook_events", "log_size")
