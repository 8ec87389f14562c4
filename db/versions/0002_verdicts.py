"""Verdicts of executing a binary on the CPU."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("binary_hash", sa.Text(), nullable=False),
        sa.Column("compiler", sa.Text(), nullable=False),
        sa.Column("compiler_version", sa.Text(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pass",
                "incorrect",
                "fault",
                "not_emulated",
                name="status",
                native_enum=False,
                create_constraint=True,
            ),
            nullable=False,
        ),
        sa.Column("error", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(status = 'pass') = (reason IS NULL)", name=op.f("ck_verdicts_reason")),
        sa.CheckConstraint("status <> 'pass' OR error IS NOT NULL", name=op.f("ck_verdicts_error")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdicts")),
        sa.UniqueConstraint("binary_hash", "compiler", "compiler_version", name=op.f("uq_verdicts_binary")),
    )


def downgrade() -> None:
    op.drop_table("verdicts")
