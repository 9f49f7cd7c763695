"""Climb a ladder

A job keeps the policy it was queued under, the method it is trying and those it tried, and weights that a person may
approve.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("policy", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("rung", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("rungs", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("jobs", sa.Column("candidate_sha256", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("candidate_size", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True))
    op.add_column("jobs", sa.Column("approved_by", sa.String(length=100), nullable=True))
    op.add_column("jobs", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_jobs_candidate_sha256", "jobs", ["candidate_sha256"])


def downgrade() -> None:
    op.drop_index("ix_jobs_candidate_sha256", "jobs")
    for name in ("not_before", "approved_by", "candidate_size", "candidate_sha256", "rungs", "rung", "policy"):
        op.drop_column("jobs", name)
