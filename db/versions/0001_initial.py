"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "environments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column("compute_units", sa.Integer(), nullable=False),
        sa.Column("compute_partition", sa.Text(), nullable=True),
        sa.Column("memory_partition", sa.Text(), nullable=True),
        sa.Column("power_cap_w", sa.Integer(), nullable=True),
        sa.Column("driver", sa.Text(), nullable=True),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("torch", sa.Text(), nullable=True),
        sa.Column("triton", sa.Text(), nullable=True),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("kernel_source", sa.Text(), nullable=False),
        sa.Column("tool_version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environments")),
        sa.UniqueConstraint("key", name=op.f("uq_environments_key")),
    )
    op.create_table(
        "exports",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("bundle_path", sa.Text(), nullable=False),
        sa.Column("manifest_hash", sa.Text(), nullable=False),
        sa.Column("unmeasured_allowed", sa.Boolean(), nullable=False),
        sa.Column("tool_version", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exports")),
        sa.UniqueConstraint("id", "unmeasured_allowed", name=op.f("uq_exports_id_unmeasured_allowed")),
        sa.UniqueConstraint("uid", name=op.f("uq_exports_uid")),
    )
    op.create_index(op.f("ix_exports_manifest_hash"), "exports", ["manifest_hash"])

    op.create_table(
        "problems",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("tp", sa.Integer(), nullable=False),
        sa.Column("model_dim", sa.Integer(), nullable=False),
        sa.Column("inter_dim", sa.Integer(), nullable=False),
        sa.Column("experts", sa.Integer(), nullable=False),
        sa.Column("top_k", sa.Integer(), nullable=False),
        sa.Column("verify_tokens", sa.Integer(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("routing_kind", sa.Text(), nullable=False),
        sa.Column("routing_parameter", sa.Double(), nullable=False),
        sa.Column("routing_path", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "tokens = verify_tokens * concurrency AND tokens > 0", name=op.f("ck_problems_tokens")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_problems")),
        sa.UniqueConstraint("key", name=op.f("uq_problems_key")),
    )
    op.create_index(
        op.f("ix_problems_model_dim_inter_dim_experts_top_k_tokens"),
        "problems",
        ["model_dim", "inter_dim", "experts", "top_k", "tokens"],
    )

    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "running",
                "finished",
                "interrupted",
                "failed",
                name="state",
                native_enum=False,
                create_constraint=True,
            ),
            nullable=False,
        ),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tool_version", sa.Text(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=True),
        sa.CheckConstraint("(state = 'running') = (ended_at IS NULL)", name=op.f("ck_runs_ended")),
        sa.ForeignKeyConstraint(["environment_id"], ["environments.id"], name=op.f("fk_runs_environment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("uid", name=op.f("uq_runs_uid")),
    )
    op.create_table(
        "confirmations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("problem_id", sa.Integer(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "measured", "estimate", "replayed", name="kind", native_enum=False, create_constraint=True
            ),
            nullable=False,
        ),
        sa.Column("winner", sa.Integer(), nullable=False),
        sa.Column("gain", sa.Double(), nullable=False),
        sa.Column("gain_low", sa.Double(), nullable=False),
        sa.Column("gain_high", sa.Double(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind <> 'estimate'", name=op.f("ck_confirmations_not_estimated")),
        sa.CheckConstraint("gain_low <= gain_high", name=op.f("ck_confirmations_interval")),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("fk_confirmations_environment_id")
        ),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_confirmations_problem_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_confirmations_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_confirmations")),
        sa.UniqueConstraint("id", "kind", "winner", name=op.f("uq_confirmations_id_kind_winner")),
        sa.UniqueConstraint("run_id", "number", name=op.f("uq_confirmations_run_id_number")),
    )
    op.create_index(op.f("ix_confirmations_problem_id"), "confirmations", ["problem_id"])

    op.create_table(
        "trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("problem_id", sa.Integer(), nullable=False),
        sa.Column(
            "stage",
            sa.Enum("stage1", "stage2", name="stage", native_enum=False, create_constraint=True),
            nullable=False,
        ),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("space_digest", sa.Text(), nullable=False),
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "ok",
                "constraint",
                "compile_error",
                "compile_timeout",
                "runtime_error",
                "timeout",
                "incorrect",
                name="status",
                native_enum=False,
                create_constraint=True,
            ),
            nullable=False,
        ),
        sa.Column(
            "kind",
            sa.Enum(
                "measured", "estimate", "replayed", name="kind", native_enum=False, create_constraint=True
            ),
            nullable=False,
        ),
        sa.Column("figure_us", sa.Double(), nullable=True),
        sa.Column("gate_error", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("binary_hash", sa.Text(), nullable=True),
        sa.Column("compile_s", sa.Double(), nullable=False),
        sa.Column("measure_s", sa.Double(), nullable=False),
        sa.Column("merged_into", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(status = 'ok') = (figure_us IS NOT NULL)", name=op.f("ck_trials_figure")),
        sa.CheckConstraint("(status = 'ok') = (reason IS NULL)", name=op.f("ck_trials_reason")),
        sa.CheckConstraint(
            "status <> 'ok' OR kind <> 'measured' OR gate_error IS NOT NULL", name=op.f("ck_trials_gated")
        ),
        sa.CheckConstraint("figure_us > 0", name=op.f("ck_trials_figure_positive")),
        sa.CheckConstraint("merged_into <> id", name=op.f("ck_trials_merged_into_other")),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("fk_trials_environment_id")
        ),
        sa.ForeignKeyConstraint(["merged_into"], ["trials.id"], name=op.f("fk_trials_merged_into")),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_trials_problem_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_trials_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("id", "status", name=op.f("uq_trials_id_status")),
        sa.UniqueConstraint("run_id", "number", name=op.f("uq_trials_run_id_number")),
    )
    op.create_index(op.f("ix_trials_binary_hash"), "trials", ["binary_hash"])
    op.create_index(
        "ix_trials_resume", "trials", ["problem_id", "environment_id", "stage", "backend", "workload"]
    )

    op.create_table(
        "finalists",
        sa.Column("confirmation_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("stage1_config", sa.Text(), nullable=False),
        sa.Column("stage2_config", sa.Text(), nullable=False),
        sa.Column("error", sa.Double(), nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.CheckConstraint("passed = (error IS NOT NULL)", name=op.f("ck_finalists_passed")),
        sa.ForeignKeyConstraint(
            ["confirmation_id"], ["confirmations.id"], name=op.f("fk_finalists_confirmation_id")
        ),
        sa.PrimaryKeyConstraint("confirmation_id", "position", name=op.f("pk_finalists")),
        sa.UniqueConstraint(
            "confirmation_id",
            "position",
            "passed",
            "stage1_config",
            "stage2_config",
            name="uq_finalists_winner",
        ),
    )
    op.create_table(
        "samples",
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("us", sa.Double(), nullable=False),
        sa.Column("clock_mhz", sa.Integer(), nullable=True),
        sa.Column("throttled", sa.Boolean(), nullable=False),
        sa.CheckConstraint("us > 0", name=op.f("ck_samples_us_positive")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_samples_trial_id")),
        sa.PrimaryKeyConstraint("trial_id", "number", name=op.f("pk_samples")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rounds",
        sa.Column("confirmation_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("us", sa.Double(), nullable=False),
        sa.CheckConstraint("part IN ('layer', 'stage1', 'stage2')", name=op.f("ck_rounds_part")),
        sa.CheckConstraint("us > 0", name=op.f("ck_rounds_us_positive")),
        sa.ForeignKeyConstraint(
            ["confirmation_id", "position"],
            ["finalists.confirmation_id", "finalists.position"],
            name=op.f("fk_rounds_confirmation_id_position"),
        ),
        sa.PrimaryKeyConstraint("confirmation_id", "number", "position", "part", name=op.f("pk_rounds")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "winners",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("problem_id", sa.Integer(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "measured", "estimate", "replayed", name="kind", native_enum=False, create_constraint=True
            ),
            nullable=False,
        ),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("stage1_config", sa.Text(), nullable=False),
        sa.Column("stage2_config", sa.Text(), nullable=False),
        sa.Column("default_stage1_config", sa.Text(), nullable=False),
        sa.Column("default_stage2_config", sa.Text(), nullable=False),
        sa.Column("kept_default", sa.Boolean(), nullable=False),
        sa.Column("gain", sa.Double(), nullable=False),
        sa.Column("gain_low", sa.Double(), nullable=True),
        sa.Column("gain_high", sa.Double(), nullable=True),
        sa.Column("confirmation_id", sa.Integer(), nullable=True),
        sa.Column("finalist", sa.Integer(), nullable=True),
        sa.Column("passed", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("stage1_trial_id", sa.Integer(), nullable=True),
        sa.Column("stage2_trial_id", sa.Integer(), nullable=True),
        sa.Column(
            "trial_status",
            sa.Enum(
                "ok",
                "constraint",
                "compile_error",
                "compile_timeout",
                "runtime_error",
                "timeout",
                "incorrect",
                name="trial_status",
                native_enum=False,
                create_constraint=True,
            ),
            server_default="ok",
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(kind = 'estimate') = (confirmation_id IS NULL)", name=op.f("ck_winners_confirmed")
        ),
        sa.CheckConstraint("(kind = 'estimate') = (gain_high IS NULL)", name=op.f("ck_winners_gain_high")),
        sa.CheckConstraint("(kind = 'estimate') = (gain_low IS NULL)", name=op.f("ck_winners_gain_low")),
        sa.CheckConstraint(
            "kept_default OR kind = 'estimate' OR gain_low > 0", name=op.f("ck_winners_faster")
        ),
        sa.CheckConstraint(
            "kind <> 'estimate' OR ((stage1_trial_id IS NOT NULL OR stage1_config = default_stage1_config)"
            " AND (stage2_trial_id IS NOT NULL OR stage2_config = default_stage2_config))",
            name=op.f("ck_winners_tried"),
        ),
        sa.CheckConstraint("rank = 0 OR kind = 'estimate'", name=op.f("ck_winners_one_winner")),
        sa.CheckConstraint("trial_status = 'ok'", name=op.f("ck_winners_trial_ok")),
        sa.CheckConstraint(
            "(confirmation_id IS NULL) = (finalist IS NULL)", name=op.f("ck_winners_finalist")
        ),
        sa.CheckConstraint(
            "kept_default ="
            " (stage1_config = default_stage1_config AND stage2_config = default_stage2_config)",
            name=op.f("ck_winners_kept_default"),
        ),
        sa.CheckConstraint("passed", name=op.f("ck_winners_passed")),
        sa.ForeignKeyConstraint(
            ["confirmation_id", "finalist", "passed", "stage1_config", "stage2_config"],
            [
                "finalists.confirmation_id",
                "finalists.position",
                "finalists.passed",
                "finalists.stage1_config",
                "finalists.stage2_config",
            ],
            name="fk_winners_finalist",
        ),
        sa.ForeignKeyConstraint(
            ["confirmation_id", "kind", "finalist"],
            ["confirmations.id", "confirmations.kind", "confirmations.winner"],
            name="fk_winners_confirmation",
        ),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("fk_winners_environment_id")
        ),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_winners_problem_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_winners_run_id")),
        sa.ForeignKeyConstraint(
            ["stage1_trial_id", "trial_status"],
            ["trials.id", "trials.status"],
            name=op.f("fk_winners_stage1_trial_id_trial_status"),
        ),
        sa.ForeignKeyConstraint(
            ["stage2_trial_id", "trial_status"],
            ["trials.id", "trials.status"],
            name=op.f("fk_winners_stage2_trial_id_trial_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_winners")),
        sa.UniqueConstraint("id", "kind", name=op.f("uq_winners_id_kind")),
        sa.UniqueConstraint("run_id", "number", name=op.f("uq_winners_run_id_number")),
    )
    op.create_index(
        op.f("ix_winners_problem_id_backend_environment_id"),
        "winners",
        ["problem_id", "backend", "environment_id"],
    )

    op.create_table(
        "exported_winners",
        sa.Column("export_id", sa.Integer(), nullable=False),
        sa.Column("winner_id", sa.Integer(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "measured", "estimate", "replayed", name="kind", native_enum=False, create_constraint=True
            ),
            nullable=False,
        ),
        sa.Column("unmeasured_allowed", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "kind = 'measured' OR unmeasured_allowed", name=op.f("ck_exported_winners_measured")
        ),
        sa.ForeignKeyConstraint(
            ["export_id", "unmeasured_allowed"],
            ["exports.id", "exports.unmeasured_allowed"],
            name=op.f("fk_exported_winners_export_id_unmeasured_allowed"),
        ),
        sa.ForeignKeyConstraint(
            ["winner_id", "kind"],
            ["winners.id", "winners.kind"],
            name=op.f("fk_exported_winners_winner_id_kind"),
        ),
        sa.PrimaryKeyConstraint("export_id", "winner_id", name=op.f("pk_exported_winners")),
    )
    op.create_index(op.f("ix_exported_winners_winner_id"), "exported_winners", ["winner_id"])


def downgrade() -> None:
    for table in (
        "exported_winners",
        "winners",
        "rounds",
        "samples",
        "finalists",
        "trials",
        "confirmations",
        "runs",
        "problems",
        "exports",
        "environments",
    ):
        op.drop_table(table)
