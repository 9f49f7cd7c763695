"""Keep for each request what held its samples and what became of it

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "residuals",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("artifact", sa.String(length=300), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("version_id", sa.String(length=40), nullable=True),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("waiting", sa.Boolean(), nullable=False),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["deletion_requests.id"], name=op.f("fk_residuals_request_id_deletion_requests")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_residuals_version_id_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_residuals")),
        sa.UniqueConstraint(
            "request_id", "artifact", "sha256", name=op.f("uq_residuals_request_id_artifact_sha256")
        ),
    )
    op.create_index("ix_residuals_artifact", "residuals", ["artifact"])
    op.create_index("ix_residuals_version_id", "residuals", ["version_id"])
    op.create_index("ix_residuals_waiting_state", "residuals", ["waiting", "state"])
    op.create_table(
        "dataset_caches",
        sa.Column("place", sa.String(length=40), nullable=False),
        sa.Column("dataset_id", sa.String(length=40), nullable=False),
        sa.Column("machine", sa.String(length=200), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_caches_dataset_id_datasets")),
        sa.PrimaryKeyConstraint("place", "dataset_id", name=op.f("pk_dataset_caches")),
    )


def downgrade() -> None:
    op.drop_table("dataset_caches")
    op.drop_table("residuals")
