"""Keep what a shared evaluation measured for each request apart from what it says for all

Revision ID: 0028
Revises: 0027
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

_EVALUATIONS = sa.table("evaluations", sa.column("id", sa.String), sa.column("report", sa.JSON))
_FIGURES = sa.table(
    "evaluation_figures",
    sa.column("evaluation_id", sa.String),
    sa.column("index", sa.Integer),
    sa.column("figure", sa.JSON),
)


def upgrade() -> None:
    op.create_table(
        "evaluation_figures",
        sa.Column("evaluation_id", sa.String(length=40), nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("figure", sa.JSON(), nullable=False),
        sa.Column("proof", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name=op.f("fk_evaluation_figures_evaluation_id_evaluations")
        ),
        sa.ForeignKeyConstraint(
            ["request_id"], ["deletion_requests.id"], name=op.f("fk_evaluation_figures_request_id_deletion_requests")
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "request_id", name=op.f("pk_evaluation_figures")),
    )


def downgrade() -> None:
    """Put the figures back into the reports, where the version before looks for them."""
    connection = op.get_bind()
    cut = list(connection.scalars(sa.select(_FIGURES.c.evaluation_id).distinct()))
    for evaluation_id in cut:
        stored = sa.select(_EVALUATIONS.c.report).where(_EVALUATIONS.c.id == evaluation_id)
        report = connection.execute(stored).scalar_one()
        figures = connection.scalars(
            sa.select(_FIGURES.c.figure)
            .where(_FIGURES.c.evaluation_id == evaluation_id)
            .order_by(_FIGURES.c.index)
        )  # fmt: skip
        whole = {**report, "per_request": list(figures)}
        connection.execute(sa.update(_EVALUATIONS).where(_EVALUATIONS.c.id == evaluation_id).values(report=whole))
    op.drop_table("evaluation_figures")
