"""Keep who fetched which version, and who was told to give it up

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# What was fetched before there was this table, by the log.
_EARLIER = """
INSERT INTO recipients (version_id, principal_id, downloads, first_at, last_at)
SELECT versions.id, audit_entries.actor, count(*), min({time}), max({time})
FROM audit_entries
JOIN audit_links ON audit_links.seq = audit_entries.seq AND audit_links.kind = 'version'
JOIN models ON audit_links.ref LIKE models.name || '/%'
JOIN versions ON versions.model_id = models.id
    AND audit_links.ref = models.name || '/' || CAST(versions.number AS VARCHAR)
WHERE audit_entries.action = 'version.downloaded' AND length(audit_entries.actor) <= 40
GROUP BY versions.id, audit_entries.actor
"""
# SQLite keeps moments as text without a zone.
_TIMES = {
    "sqlite": "replace(replace(audit_entries.time, 'T', ' '), 'Z', '')",
    "postgresql": "CAST(audit_entries.time AS timestamptz)",
}


def upgrade() -> None:
    op.create_table(
        "recipients",
        sa.Column("version_id", sa.String(length=40), nullable=False),
        sa.Column("principal_id", sa.String(length=40), nullable=False),
        sa.Column("downloads", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_recipients_version_id_versions")),
        sa.PrimaryKeyConstraint("version_id", "principal_id", name=op.f("pk_recipients")),
    )
    op.execute(_EARLIER.format(time=_TIMES[op.get_bind().dialect.name]))
    op.create_table(
        "withdrawals",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("version_id", sa.String(length=40), nullable=False),
        sa.Column("principal_id", sa.String(length=40), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.String(length=40), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_withdrawals_version_id_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_withdrawals")),
    )
    op.create_index("ix_withdrawals_version_id", "withdrawals", ["version_id"])
    op.create_index("ix_withdrawals_principal_id_id", "withdrawals", ["principal_id", "id"])


def downgrade() -> None:
    op.drop_table("withdrawals")
    op.drop_table("recipients")
