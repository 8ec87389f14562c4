"""Several GPUs and drivers: where samples were taken, calibrations of equal GPUs, claims, indices."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("trials", "layers", "confirmations"):
        op.add_column(table, sa.Column("host", sa.Text(), nullable=True))
        op.add_column(table, sa.Column("gpu", sa.Text(), nullable=True))
    op.create_table(
        "calibrations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("problem_id", sa.Integer(), nullable=False),
        sa.Column(
            "stage",
            sa.Enum("stage1", "stage2", name="stage", native_enum=False, create_constraint=True),
            nullable=False,
        ),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("gpu", sa.Text(), nullable=True),
        sa.Column("us", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("us > 0", name=op.f("ck_calibrations_us_positive")),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_calibrations_problem_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_calibrations_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calibrations")),
        sa.UniqueConstraint("run_id", "number", name=op.f("uq_calibrations_run_id_number")),
    )
    op.create_table(
        "claims",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_claims_run_id")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_claims")),
    )
    op.create_index(op.f("ix_claims_run_id"), "claims", ["run_id"])


def downgrade() -> None:
    op.drop_table("claims")
    op.drop_table("calibrations")
    for table in ("confirmations", "layers", "trials"):
        with op.batch_alter_table(table) as batch:
            batch.drop_column("gpu")
            batch.drop_column("host")
