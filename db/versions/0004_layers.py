"""Layers that a search tried."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATUS = ("ok", "constraint", "compile_error", "compile_timeout", "runtime_error", "timeout", "incorrect")


def _enum(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True)


def upgrade() -> None:
    op.create_table(
        "layers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("problem_id", sa.Integer(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("stage1_config", sa.Text(), nullable=False),
        sa.Column("stage2_config", sa.Text(), nullable=False),
        sa.Column("default_stage1_config", sa.Text(), nullable=False),
        sa.Column("default_stage2_config", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("status", _enum("status", *_STATUS), nullable=False),
        sa.Column("kind", _enum("kind", "measured", "estimate", "replayed"), nullable=False),
        sa.Column("time_us", sa.Double(), nullable=True),
        sa.Column("default_us", sa.Double(), nullable=True),
        sa.Column("samples", sa.JSON(), nullable=False),
        sa.Column("gate_error", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("measure_s", sa.Double(), nullable=False),
        sa.Column("contended", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind <> 'estimate'", name=op.f("ck_layers_not_estimated")),
        sa.CheckConstraint("(status = 'ok') = (time_us IS NOT NULL)", name=op.f("ck_layers_time")),
        sa.CheckConstraint("(status = 'ok') = (default_us IS NOT NULL)", name=op.f("ck_layers_default")),
        sa.CheckConstraint("(status = 'ok') = (reason IS NULL)", name=op.f("ck_layers_reason")),
        sa.CheckConstraint("time_us > 0 AND default_us > 0", name=op.f("ck_layers_positive")),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("fk_layers_environment_id")
        ),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_layers_problem_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_layers_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_layers")),
        sa.UniqueConstraint("run_id", "number", name=op.f("uq_layers_run_id_number")),
    )
    op.create_index(op.f("ix_layers_problem_id_environment_id"), "layers", ["problem_id", "environment_id"])


def downgrade() -> None:
    op.drop_table("layers")
