"""Know a version by its tensors too, whatever the header of its file

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("content_sha256", sa.String(length=64), nullable=True))
    op.create_index("ix_versions_content_sha256", "versions", ["content_sha256"])


def downgrade() -> None:
    op.drop_index("ix_versions_content_sha256", "versions")
    op.drop_column("versions", "content_sha256")
