"""Name the checkpoints that broken-off trainings go on from

Revision ID: 0023
Revises: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "training_checkpoints",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("order_sha256", sa.String(length=64), nullable=False),
        sa.Column("training_set", sa.String(length=64), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("epochs", sa.Integer(), nullable=False),
        sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_training_checkpoints_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_training_checkpoints")),
    )
    op.create_index("ix_training_checkpoints_sha256", "training_checkpoints", ["sha256"])
    op.add_column("attempts", sa.Column("resumed_from", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("attempts", "resumed_from")
    op.drop_table("training_checkpoints")
