"""Verdicts: what executing a binary's machine code on the CPU has shown, and what it forbids."""

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from autotune.problem.layer import Stage
from autotune.results import WRONG, CheckVerdict, CompilerVersion
from autotune.store.base import Base
from autotune.store.records import WinnerRecord
from autotune.store.rows import existing, storable_error, upsert
from autotune.store.schema import Trial, VerdictRow, Winner
from autotune.store.sessions import Sessions

_TABLE = Base.metadata.tables[VerdictRow.__tablename__]
_IDENTITY = ("binary_hash", "compiler", "compiler_version")


class Verdicts(Sessions):
    """The verdicts of an open database."""

    def record_verdict(
        self, binary_hash: str, compiler: CompilerVersion, arch: str, verdict: CheckVerdict
    ) -> None:
        """Writes a verdict; one on the same binary by the same compiler is replaced.

        Args:
            binary_hash: `Compiled.binary_hash`.
            arch: what the binary is for, e.g. `gfx942`.

        Raises:
            sqlalchemy.exc.IntegrityError: a pass with a reason or without an error, or a failure without one.
        """
        values = {
            "binary_hash": binary_hash,
            "compiler": compiler.name,
            "compiler_version": compiler.version,
            "arch": arch,
            "status": verdict.status,
            "error": storable_error(verdict.error),
            "reason": verdict.reason,
            "seconds": verdict.seconds,
            "counts": dict(verdict.counts),
            "created_at": datetime.now(UTC),
        }
        renewed = {name: value for name, value in values.items() if name not in _IDENTITY}
        with self.writing() as session:
            session.execute(
                upsert(session, _TABLE)
                .values(values)
                .on_conflict_do_update(index_elements=_IDENTITY, set_=renewed)
            )

    def verdict(self, binary_hash: str, compiler: CompilerVersion) -> CheckVerdict | None:
        """The verdict on a binary; None: it was not checked, or not as this compiler made it."""
        with self.reading() as session:
            row = session.scalar(
                select(VerdictRow).where(
                    VerdictRow.binary_hash == binary_hash,
                    VerdictRow.compiler == compiler.name,
                    VerdictRow.compiler_version == compiler.version,
                )
            )
            return None if row is None else _verdict(row)

    def verdicts_of(self, winner: WinnerRecord) -> dict[Stage, CheckVerdict]:
        """The verdicts on a winner's binaries, as far as they were checked; wrong ones before others."""
        with self.reading() as session:
            row = existing(session, Winner, winner.id)
            verdicts = {stage: _verdicts(session, row, stage) for stage in Stage}
            return {stage: _verdict(rows[0]) for stage, rows in verdicts.items() if rows}


def wrong_binary(session: Session, winner: Winner) -> str | None:
    """Why a winner must not be used, as a sentence; None: no check has found its binaries wrong."""
    for stage in Stage:
        rows = _verdicts(session, winner, stage)
        if rows and rows[0].status in WRONG:
            config = winner.stage1_config if stage is Stage.STAGE1 else winner.stage2_config
            return f"{stage} {config} is wrong, its machine code was executed: {_verdict(rows[0]).text}"
    return None


def _verdicts(session: Session, winner: Winner, stage: Stage) -> list[VerdictRow]:
    """Verdicts on the binaries that a winner's trials of a stage had, wrong ones first, then the newest."""
    config = winner.stage1_config if stage is Stage.STAGE1 else winner.stage2_config
    binaries = select(Trial.binary_hash).where(
        Trial.problem_id == winner.problem_id,
        Trial.environment_id == winner.environment_id,
        Trial.backend == winner.backend,
        Trial.stage == stage,
        Trial.config == config,
    )
    rows = session.scalars(select(VerdictRow).where(VerdictRow.binary_hash.in_(binaries)))
    return sorted(rows, key=lambda row: (row.status not in WRONG, -row.created_at.timestamp()))


def _verdict(row: VerdictRow) -> CheckVerdict:
    return CheckVerdict(row.status, row.error, row.reason, row.seconds, row.counts)
