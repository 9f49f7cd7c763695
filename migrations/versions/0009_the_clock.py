"""The clock of deletion requests, and what people decide about them

The marks of open requests are set so that the clock looks at each of them once and finds where it stands.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.add_column("deletion_requests", sa.Column("extended_by", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deletion_requests", sa.Column("mark_reached", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deletion_requests", sa.Column("next_mark_at", moment, nullable=True))
    op.add_column("deletion_requests", sa.Column("ended_at", moment, nullable=True))
    op.create_index("ix_deletion_requests_next_mark_at", "deletion_requests", ["next_mark_at"])
    op.execute("UPDATE deletion_requests SET ended_at = completed_at")
    op.execute(
        "UPDATE deletion_requests SET next_mark_at = received_at WHERE due_at IS NOT NULL "
        "AND status IN ('received', 'accepted', 'in_progress', 'on_hold', 'failed')"
    )
    op.add_column("jobs", sa.Column("on_hold", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "request_decisions",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("by", sa.String(length=40), nullable=False),
        sa.Column("months", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("note_key", sa.LargeBinary(length=32), nullable=True),
        sa.Column("time", moment, nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["deletion_requests.id"], name=op.f("fk_request_decisions_request_id_deletion_requests")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_request_decisions")),
    )
    op.create_index("ix_request_decisions_request_id", "request_decisions", ["request_id"])


def downgrade() -> None:
    op.drop_table("request_decisions")
    op.drop_column("jobs", "on_hold")
    op.drop_index("ix_deletion_requests_next_mark_at", "deletion_requests")
    for name in ("ended_at", "next_mark_at", "mark_reached", "extended_by"):
        op.drop_column("deletion_requests", name)
