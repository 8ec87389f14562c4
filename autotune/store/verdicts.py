"""Verdicts: what executing a binary's machine code on the CPU has shown, and what it forbids."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from autotune.problem.layer import Stage
from autotune.results import WRONG, CheckVerdict, CompilerVersion
from autotune.store.base import Base
from autotune.store.records import WinnerRecord
from autotune.store.rows import storable_error, upsert
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

    def verdicts_of(self, winners: Sequence[WinnerRecord]) -> list[dict[Stage, CheckVerdict]]:
        """The verdicts on each winner's binaries, as far as they were checked; wrong ones before others.

        Raises:
            LookupError: there is no such winner.
        """
        with self.reading() as session:
            rows = stored_winners(session, [winner.id for winner in winners])
            return [
                {stage: _verdict(verdicts[0]) for stage, verdicts in each.items()}
                for each in _verdicts(session, rows)
            ]


def stored_winners(session: Session, ids: Sequence[int]) -> list[Winner]:
    """The rows of these ids, asked for at once.

    Raises:
        LookupError: there is no row of one.
    """
    rows = {row.id: row for row in session.scalars(select(Winner).where(Winner.id.in_(ids)))}
    for id_ in ids:
        if id_ not in rows:
            raise LookupError(f"{Winner.__tablename__} has no row {id_}")
    return [rows[id_] for id_ in ids]


def wrong_binaries(session: Session, winners: Sequence[Winner]) -> list[str | None]:
    """Why each winner must not be used, as a sentence; None: no check has found its binaries wrong."""
    return [
        next(
            (
                f"{stage} {_config(winner, stage)} is wrong, its machine code was executed:"
                f" {_verdict(verdicts[0]).text}"
                for stage, verdicts in each.items()
                if verdicts[0].status in WRONG
            ),
            None,
        )
        for winner, each in zip(winners, _verdicts(session, winners), strict=True)
    ]


def _config(winner: Winner, stage: Stage) -> str:
    return winner.stage1_config if stage is Stage.STAGE1 else winner.stage2_config


def _verdicts(session: Session, winners: Sequence[Winner]) -> list[dict[Stage, list[VerdictRow]]]:
    """Verdicts on the binaries that each winner's trials of a stage had, wrong ones first, then the newest.

    Asked for once a stack and backend, however many winners it has; a stage without one is left out.
    """
    stacks: dict[tuple[int, str], list[Winner]] = {}
    for winner in winners:
        stacks.setdefault((winner.environment_id, winner.backend), []).append(winner)
    verdicts: dict[tuple[Any, ...], list[VerdictRow]] = {}
    for stack, alike in stacks.items():
        for problem, stage, config, verdict in _executed(session, *stack, alike):
            verdicts.setdefault((*stack, problem, stage, config), []).append(verdict)
    for rows in verdicts.values():
        rows.sort(key=lambda row: (row.status not in WRONG, -row.created_at.timestamp()))
    return [
        {
            stage: verdicts[key]
            for stage in Stage
            if (key := (w.environment_id, w.backend, w.problem_id, stage, _config(w, stage))) in verdicts
        }
        for w in winners
    ]


def _executed(
    session: Session, environment: int, backend: str, winners: Sequence[Winner]
) -> Iterable[tuple[int, Stage, str, VerdictRow]]:
    """Problem, stage, config and verdict of trials, among them those of the winners' configs."""
    return session.execute(
        select(Trial.problem_id, Trial.stage, Trial.config, VerdictRow)
        .join(VerdictRow, VerdictRow.binary_hash == Trial.binary_hash)
        .where(
            Trial.problem_id.in_({winner.problem_id for winner in winners}),
            Trial.environment_id == environment,
            Trial.backend == backend,
            Trial.stage.in_(list(Stage)),
            Trial.config.in_({_config(winner, stage) for winner in winners for stage in Stage}),
        )
    )


def _verdict(row: VerdictRow) -> CheckVerdict:
    return CheckVerdict(row.status, row.error, row.reason, row.seconds, row.counts)
