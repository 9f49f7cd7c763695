"""Rotate keys, know when they were used, give them quotas; say who approved a request

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.add_column("api_keys", sa.Column("previous_sha256", sa.LargeBinary(length=32), nullable=True))
    op.add_column("api_keys", sa.Column("previous_until", moment, nullable=True))
    op.add_column("api_keys", sa.Column("last_used_at", moment, nullable=True))
    op.add_column("api_keys", sa.Column("quotas", sa.JSON(), nullable=True))
    op.create_index("ix_api_keys_previous_sha256", "api_keys", ["previous_sha256"], unique=True)
    op.add_column("deletion_requests", sa.Column("approval_above_share", sa.Double(), nullable=True))
    op.add_column("deletion_requests", sa.Column("approved_by", sa.String(length=40), nullable=True))
    op.create_index(
        "ix_deletion_requests_principal_id_created_at", "deletion_requests", ["principal_id", "created_at"]
    )


def downgrade() -> None:
    op.drop_index("ix_deletion_requests_principal_id_created_at", "deletion_requests")
    op.drop_column("deletion_requests", "approved_by")
    op.drop_column("deletion_requests", "approval_above_share")
    op.drop_index("ix_api_keys_previous_sha256", "api_keys")
    for name in ("quotas", "last_used_at", "previous_until", "previous_sha256"):
        op.drop_column("api_keys", name)
