"""Keep one certificate for each completed deletion request

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INDEX = "ix_deletion_requests_without_certificate"
WITHOUT = sa.text("status = 'completed' AND certificate_id IS NULL")


def upgrade() -> None:
    op.create_table(
        "certificates",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["deletion_requests.id"], name=op.f("fk_certificates_request_id_deletion_requests")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificates")),
        sa.UniqueConstraint("request_id", name=op.f("uq_certificates_request_id")),
    )
    op.add_column("deletion_requests", sa.Column("certificate_id", sa.String(length=40), nullable=True))
    columns = ["status", "certificate_id", "completed_at"]
    op.create_index(INDEX, "deletion_requests", columns, sqlite_where=WITHOUT, postgresql_where=WITHOUT)


def downgrade() -> None:
    op.drop_index(INDEX, table_name="deletion_requests")
    op.drop_table("certificates")
    # not in a batch: on SQLite that makes the table anew, to which others refer
    op.drop_column("deletion_requests", "certificate_id")
