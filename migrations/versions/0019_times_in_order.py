"""Keep the time of the log's last entry, so that times never run backwards

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("audit_head", sa.Column("time", sa.String(length=32), nullable=False, server_default=""))
    op.execute("UPDATE audit_head SET time = coalesce((SELECT max(time) FROM audit_entries), '')")
    # No batch: a table that is built anew would lose the triggers that refuse changes.
    op.drop_index("ix_audit_entries_time", "audit_entries")
    op.create_index("ix_audit_entries_time_seq", "audit_entries", ["time", "seq"])


def downgrade() -> None:
    op.drop_index("ix_audit_entries_time_seq", "audit_entries")
    op.create_index("ix_audit_entries_time", "audit_entries", ["time"])
    op.drop_column("audit_head", "time")
