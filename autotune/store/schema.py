"""The tables as SQLAlchemy classes. `db/README.md` describes each table and column in words.

Constraints carry the invariants: what must never be read from the database cannot be written to it,
by whatever code path.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint, true
from sqlalchemy.orm import Mapped, mapped_column

from autotune.machine.targets import Kind
from autotune.problem.layer import Stage
from autotune.results import Status, VerdictStatus
from autotune.store.base import Base, enum_type
from autotune.store.records import RunState as RunState


class Environment(Base):
    __tablename__ = "environments"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    # The fields of `Fingerprint`, one to one; the version is that which wrote the row first.
    device: Mapped[str]
    arch: Mapped[str]
    compute_units: Mapped[int]
    compute_partition: Mapped[str | None]
    memory_partition: Mapped[str | None]
    power_cap_w: Mapped[int | None]
    driver: Mapped[str | None]
    runtime: Mapped[str]
    torch: Mapped[str | None]
    triton: Mapped[str | None]
    backend: Mapped[str]
    kernel_source: Mapped[str]
    tool_version: Mapped[str]


class Run(Base):
    __tablename__ = "runs"
    __table_args__ = (CheckConstraint("(state = 'running') = (ended_at IS NULL)", name="ended"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(unique=True)
    command: Mapped[str]
    spec: Mapped[dict[str, Any]]
    seed: Mapped[int]
    state: Mapped[RunState] = mapped_column(enum_type(RunState, "state"))
    host: Mapped[str]
    pid: Mapped[int]
    process: Mapped[str | None]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    tool_version: Mapped[str]
    environment_id: Mapped[int | None] = mapped_column(ForeignKey("environments.id"))


class ProblemRow(Base):
    __tablename__ = "problems"
    __table_args__ = (
        CheckConstraint("tokens = verify_tokens * concurrency AND tokens > 0", name="tokens"),
        Index(None, "model_dim", "inter_dim", "experts", "top_k", "tokens"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    model: Mapped[str]
    tp: Mapped[int]
    model_dim: Mapped[int]
    inter_dim: Mapped[int]
    experts: Mapped[int]
    top_k: Mapped[int]
    verify_tokens: Mapped[int]
    concurrency: Mapped[int]
    tokens: Mapped[int]
    routing_kind: Mapped[str]
    routing_parameter: Mapped[float]
    routing_path: Mapped[str]


class Trial(Base):
    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("run_id", "number"),
        UniqueConstraint("id", "status"),  # what a short-listed winner points at
        CheckConstraint("(status = 'ok') = (figure_us IS NOT NULL)", name="figure"),
        CheckConstraint("(status = 'ok') = (reason IS NULL)", name="reason"),
        CheckConstraint("figure_us > 0", name="figure_positive"),
        CheckConstraint("status <> 'ok' OR kind <> 'measured' OR gate_error IS NOT NULL", name="gated"),
        CheckConstraint("merged_into <> id", name="merged_into_other"),
        Index("ix_trials_resume", "problem_id", "environment_id", "stage", "backend", "workload"),
        Index(None, "binary_hash"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[int]
    environment_id: Mapped[int] = mapped_column(ForeignKey("environments.id"))
    problem_id: Mapped[int] = mapped_column(ForeignKey("problems.id"))
    stage: Mapped[Stage] = mapped_column(enum_type(Stage, "stage"))
    backend: Mapped[str]
    space_digest: Mapped[str]
    workload: Mapped[str]
    config: Mapped[str]
    origin: Mapped[str]
    status: Mapped[Status] = mapped_column(enum_type(Status, "status"))
    kind: Mapped[Kind] = mapped_column(enum_type(Kind, "kind"))
    time_us: Mapped[float | None] = mapped_column("figure_us")
    gate_error: Mapped[float | None]
    reason: Mapped[str | None]
    facts: Mapped[dict[str, int]]
    binary_hash: Mapped[str | None]
    compile_s: Mapped[float]
    measure_s: Mapped[float]
    merged_into: Mapped[int | None] = mapped_column(ForeignKey("trials.id"))
    contended: Mapped[str | None]
    host: Mapped[str | None]
    gpu: Mapped[str | None]
    created_at: Mapped[datetime]


class SampleRow(Base):
    __tablename__ = "samples"
    __table_args__ = (CheckConstraint("us > 0", name="us_positive"), {"sqlite_with_rowid": False})

    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    us: Mapped[float]
    clock_mhz: Mapped[int | None]
    throttled: Mapped[bool]


class LayerRow(Base):
    __tablename__ = "layers"
    __table_args__ = (
        UniqueConstraint("run_id", "number"),
        CheckConstraint("kind <> 'estimate'", name="not_estimated"),
        CheckConstraint("(status = 'ok') = (time_us IS NOT NULL)", name="time"),
        CheckConstraint("(status = 'ok') = (default_us IS NOT NULL)", name="default"),
        CheckConstraint("(status = 'ok') = (reason IS NULL)", name="reason"),
        CheckConstraint("time_us > 0 AND default_us > 0", name="positive"),
        Index(None, "problem_id", "environment_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[int]
    environment_id: Mapped[int] = mapped_column(ForeignKey("environments.id"))
    problem_id: Mapped[int] = mapped_column(ForeignKey("problems.id"))
    backend: Mapped[str]
    workload: Mapped[str]
    stage1_config: Mapped[str]
    stage2_config: Mapped[str]
    default_stage1_config: Mapped[str]
    default_stage2_config: Mapped[str]
    origin: Mapped[str]
    status: Mapped[Status] = mapped_column(enum_type(Status, "status"))
    kind: Mapped[Kind] = mapped_column(enum_type(Kind, "kind"))
    time_us: Mapped[float | None]
    default_us: Mapped[float | None]
    samples: Mapped[dict[str, Any]]
    gate_error: Mapped[float | None]
    reason: Mapped[str | None]
    measure_s: Mapped[float]
    contended: Mapped[str | None]
    host: Mapped[str | None]
    gpu: Mapped[str | None]
    created_at: Mapped[datetime]


class ConfirmationRow(Base):
    __tablename__ = "confirmations"
    __table_args__ = (
        UniqueConstraint("run_id", "number"),
        UniqueConstraint("id", "kind", "winner"),  # what a winner points at
        CheckConstraint("kind <> 'estimate'", name="not_estimated"),
        CheckConstraint("gain_low <= gain_high", name="interval"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[int]
    environment_id: Mapped[int] = mapped_column(ForeignKey("environments.id"))
    problem_id: Mapped[int] = mapped_column(ForeignKey("problems.id"), index=True)
    backend: Mapped[str]
    workload: Mapped[str]
    kind: Mapped[Kind] = mapped_column(enum_type(Kind, "kind"))
    winner: Mapped[int]
    gain: Mapped[float]
    gain_low: Mapped[float]
    gain_high: Mapped[float]
    notes: Mapped[list[str]]
    host: Mapped[str | None]
    gpu: Mapped[str | None]
    created_at: Mapped[datetime]


class FinalistRow(Base):
    __tablename__ = "finalists"
    __table_args__ = (
        UniqueConstraint(
            "confirmation_id",
            "position",
            "passed",
            "stage1_config",
            "stage2_config",
            name="uq_finalists_winner",
        ),
        CheckConstraint("passed = (error IS NOT NULL)", name="passed"),
    )

    confirmation_id: Mapped[int] = mapped_column(ForeignKey("confirmations.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str]
    stage1_config: Mapped[str]
    stage2_config: Mapped[str]
    error: Mapped[float | None]
    passed: Mapped[bool]


class RoundRow(Base):
    __tablename__ = "rounds"
    __table_args__ = (
        ForeignKeyConstraint(
            ["confirmation_id", "position"], ["finalists.confirmation_id", "finalists.position"]
        ),
        CheckConstraint("part IN ('layer', 'stage1', 'stage2')", name="part"),
        CheckConstraint("us > 0", name="us_positive"),
        {"sqlite_with_rowid": False},
    )

    confirmation_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    part: Mapped[str] = mapped_column(primary_key=True)
    us: Mapped[float]


class CalibrationRow(Base):
    __tablename__ = "calibrations"
    __table_args__ = (UniqueConstraint("run_id", "number"), CheckConstraint("us > 0", name="us_positive"))

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[int]
    problem_id: Mapped[int] = mapped_column(ForeignKey("problems.id"))
    stage: Mapped[Stage] = mapped_column(enum_type(Stage, "stage"))
    config: Mapped[str]
    host: Mapped[str]
    gpu: Mapped[str | None]
    us: Mapped[float]
    created_at: Mapped[datetime]


class Claim(Base):
    __tablename__ = "claims"

    key: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    expires_at: Mapped[datetime]


_IS_DEFAULT = "(stage1_config = default_stage1_config AND stage2_config = default_stage2_config)"


class Winner(Base):
    __tablename__ = "winners"
    __table_args__ = (
        UniqueConstraint("run_id", "number"),
        UniqueConstraint("id", "kind"),  # what an export points at
        # Only the winner of a confirmation that passed the numeric gate there, and that very config.
        ForeignKeyConstraint(
            ["confirmation_id", "kind", "finalist"],
            ["confirmations.id", "confirmations.kind", "confirmations.winner"],
            name="fk_winners_confirmation",
        ),
        ForeignKeyConstraint(
            ["confirmation_id", "finalist", "passed", "stage1_config", "stage2_config"],
            [
                f"finalists.{name}"
                for name in ("confirmation_id", "position", "passed", "stage1_config", "stage2_config")
            ],
            name="fk_winners_finalist",
        ),
        # A short-listed config points at trials that are ok.
        ForeignKeyConstraint(["stage1_trial_id", "trial_status"], ["trials.id", "trials.status"]),
        ForeignKeyConstraint(["stage2_trial_id", "trial_status"], ["trials.id", "trials.status"]),
        CheckConstraint("passed", name="passed"),
        CheckConstraint("trial_status = 'ok'", name="trial_ok"),
        CheckConstraint("(kind = 'estimate') = (confirmation_id IS NULL)", name="confirmed"),
        CheckConstraint("(confirmation_id IS NULL) = (finalist IS NULL)", name="finalist"),
        CheckConstraint(
            "kind <> 'estimate' OR ((stage1_trial_id IS NOT NULL OR stage1_config = default_stage1_config)"
            " AND (stage2_trial_id IS NOT NULL OR stage2_config = default_stage2_config))",
            name="tried",
        ),
        CheckConstraint("(kind = 'estimate') = (gain_low IS NULL)", name="gain_low"),
        CheckConstraint("(kind = 'estimate') = (gain_high IS NULL)", name="gain_high"),
        CheckConstraint(f"kept_default = {_IS_DEFAULT}", name="kept_default"),
        CheckConstraint("kept_default OR kind = 'estimate' OR gain_low > 0", name="faster"),
        CheckConstraint("rank = 0 OR kind = 'estimate'", name="one_winner"),
        Index(None, "problem_id", "backend", "environment_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[int]
    problem_id: Mapped[int] = mapped_column(ForeignKey("problems.id"))
    backend: Mapped[str]
    environment_id: Mapped[int] = mapped_column(ForeignKey("environments.id"))
    kind: Mapped[Kind] = mapped_column(enum_type(Kind, "kind"))
    rank: Mapped[int]
    stage1_config: Mapped[str]
    stage2_config: Mapped[str]
    default_stage1_config: Mapped[str]
    default_stage2_config: Mapped[str]
    kept_default: Mapped[bool]
    gain: Mapped[float]
    gain_low: Mapped[float | None]
    gain_high: Mapped[float | None]
    confirmation_id: Mapped[int | None]
    finalist: Mapped[int | None]
    passed: Mapped[bool] = mapped_column(server_default=true())
    stage1_trial_id: Mapped[int | None]
    stage2_trial_id: Mapped[int | None]
    trial_status: Mapped[Status] = mapped_column(enum_type(Status, "trial_status"), server_default="ok")
    created_at: Mapped[datetime]


class Export(Base):
    __tablename__ = "exports"
    __table_args__ = (UniqueConstraint("id", "unmeasured_allowed"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(unique=True)
    host: Mapped[str]
    bundle_path: Mapped[str]
    manifest_hash: Mapped[str] = mapped_column(index=True)
    unmeasured_allowed: Mapped[bool]
    tool_version: Mapped[str]
    created_at: Mapped[datetime]


class ExportedWinner(Base):
    __tablename__ = "exported_winners"
    __table_args__ = (
        ForeignKeyConstraint(
            ["export_id", "unmeasured_allowed"], ["exports.id", "exports.unmeasured_allowed"]
        ),
        ForeignKeyConstraint(["winner_id", "kind"], ["winners.id", "winners.kind"]),
        CheckConstraint("kind = 'measured' OR unmeasured_allowed", name="measured"),
    )

    export_id: Mapped[int] = mapped_column(primary_key=True)
    winner_id: Mapped[int] = mapped_column(primary_key=True, index=True)
    kind: Mapped[Kind] = mapped_column(enum_type(Kind, "kind"))
    unmeasured_allowed: Mapped[bool]


class VerdictRow(Base):
    __tablename__ = "verdicts"
    __table_args__ = (
        UniqueConstraint("binary_hash", "compiler", "compiler_version", name="uq_verdicts_binary"),
        CheckConstraint("(status = 'pass') = (reason IS NULL)", name="reason"),
        CheckConstraint("status <> 'pass' OR error IS NOT NULL", name="error"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    binary_hash: Mapped[str]
    compiler: Mapped[str]
    compiler_version: Mapped[str]
    arch: Mapped[str]
    status: Mapped[VerdictStatus] = mapped_column(enum_type(VerdictStatus, "status"))
    error: Mapped[float | None]
    reason: Mapped[str | None]
    seconds: Mapped[float]
    counts: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
