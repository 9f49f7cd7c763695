"""Let a source be indexed again: where it has each sample by now, and why a version was not trained on one

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("reindexed", sa.JSON(), nullable=True))
    op.add_column("samples", sa.Column("source_row", sa.Integer(), nullable=True))
    op.add_column(
        "version_exclusions",
        sa.Column("cause", sa.String(length=16), server_default="forgotten", nullable=False),
    )


def downgrade() -> None:
    # A dataset that was re-indexed has places that an older version of the service would read wrongly.
    op.drop_column("version_exclusions", "cause")
    op.drop_column("samples", "source_row")
    op.drop_column("datasets", "reindexed")
