"""Webhooks: where to tell of what happens, and how each delivery fares

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_ID, _TIME = sa.String(length=40), sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("webhook_events", sa.Column("fanned_out", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index(op.f("ix_webhook_events_time"), "webhook_events", ["time"])
    _partial_index("webhook_events", "waiting", ["time"], where="NOT fanned_out")
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", _ID, nullable=False),
        sa.Column("key_id", _ID, nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("description", sa.String(length=500), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.String(length=32), nullable=True),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("previous_secret", sa.LargeBinary(), nullable=True),
        sa.Column("previous_secret_until", _TIME, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_webhook_endpoints_key_id_api_keys")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index(op.f("ix_webhook_endpoints_key_id"), "webhook_endpoints", ["key_id"])
    _create_deliveries()


def _create_deliveries() -> None:
    table = "webhook_deliveries"
    op.create_table(
        table,
        sa.Column("id", _ID, nullable=False),
        sa.Column("event_id", _ID, nullable=False),
        sa.Column("endpoint_id", _ID, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("claims", sa.Integer(), nullable=False),
        sa.Column("next_at", _TIME, nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.String(length=32), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("attempted_at", _TIME, nullable=True),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["event_id"],
            ["webhook_events.id"],
            name=op.f("fk_webhook_deliveries_event_id_webhook_events"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name=op.f("fk_webhook_deliveries_endpoint_id_webhook_endpoints"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.UniqueConstraint("event_id", "endpoint_id", name=op.f("uq_webhook_deliveries_event_id_endpoint_id")),
    )
    op.create_index(op.f("ix_webhook_deliveries_endpoint_id_id"), table, ["endpoint_id", "id"])
    op.create_index(op.f("ix_webhook_deliveries_endpoint_id_state_id"), table, ["endpoint_id", "state", "id"])
    _partial_index(table, "due", ["endpoint_id", "next_at"], where="next_at IS NOT NULL")


def _partial_index(table: str, name: str, columns: list[str], *, where: str) -> None:
    condition = sa.text(where)
    op.create_index(f"ix_{table}_{name}", table, columns, sqlite_where=condition, postgresql_where=condition)


def downgrade() -> None:
    op.drop_table("webhook_deliveries")
    op.drop_table("webhook_endpoints")
    op.drop_index("ix_webhook_events_waiting", table_name="webhook_events")
    op.drop_index(op.f("ix_webhook_events_time"), table_name="webhook_events")
    op.drop_column("webhook_events", "fanned_out")
