"""Note since when a worker leaves work lying, and its GPU's memory

Revision ID: 0021
Revises: 0020
"""

import sqlalchemy as sa
from alembic import op

from migrations import online

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    # Added one by one, without a batch, so that running workers of the release before go on writing the table.
    op.add_column("workers", sa.Column("leaves_work_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("workers", sa.Column("gpu_memory_used", number, nullable=True))
    op.add_column("workers", sa.Column("gpu_memory_total", number, nullable=True))
    online.create_index("ix_attempts_outcome_method", "attempts", ["outcome", "method"])


def downgrade() -> None:
    op.drop_index("ix_attempts_outcome_method", table_name="attempts")
    for name in ("gpu_memory_total", "gpu_memory_used", "leaves_work_since"):
        op.drop_column("workers", name)
