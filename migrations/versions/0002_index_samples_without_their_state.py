"""Index samples without their state

A request changes the state of every sample it names; with the state in an index, PostgreSQL writes each of the table's
indexes anew for each of them.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_samples_dataset_id_pool", "samples", ["dataset_id", "pool"])
    op.drop_index("ix_samples_dataset_id_pool_state", "samples")


def downgrade() -> None:
    op.create_index("ix_samples_dataset_id_pool_state", "samples", ["dataset_id", "pool", "state"])
    op.drop_index("ix_samples_dataset_id_pool", "samples")
