"""Plots of evaluations

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op


revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('evaluation_plots',
    sa.Column('evaluation_id', sa.String(length=40), nullable=False),
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('svg', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['evaluation_id'], ['evaluations.id'], name=op.f('fk_evaluation_plots_evaluation_id_evaluations')),
    sa.PrimaryKeyConstraint('evaluation_id', 'name', name=op.f('pk_evaluation_plots'))
    )


def downgrade() -> None:
    op.drop_table('evaluation_plots')
