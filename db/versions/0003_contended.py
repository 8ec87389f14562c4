"""Trials that were timed while others were on the GPU."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("contended", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("trials", "contended")
