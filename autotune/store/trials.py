"""Trials and their raw samples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from autotune.problem.layer import Problem, Stage
from autotune.results import Sample, StaticFacts, Status
from autotune.space.config import Config
from autotune.store.base import Base
from autotune.store.records import StoredTrial, TrialRecord, WinnerRecord
from autotune.store.rows import (
    Reader,
    environment_id,
    gpu_columns,
    next_number,
    problem_id,
    storable_error,
    stored_gpu,
)
from autotune.store.schema import Environment, ProblemRow, SampleRow, Trial
from autotune.store.sessions import Sessions

_FACTS = frozenset(field.name for field in fields(StaticFacts))
_AT_ONCE: Final = 200
"""Winners whose facts one statement asks for: it takes only so many values."""
# Tables rather than classes: a trial takes half the time.
_INSERT_TRIAL = insert(Base.metadata.tables[Trial.__tablename__])
_INSERT_SAMPLES = insert(Base.metadata.tables[SampleRow.__tablename__])


class Trials(Sessions):
    """The trials of an open database."""

    def record_trial(self, run: int, trial: TrialRecord, samples: Sequence[Sample] = ()) -> int:
        """Writes a finished trial with its raw samples; returns its id.

        Raises:
            sqlalchemy.exc.IntegrityError: the record contradicts itself, e.g. a failure with a time.
        """
        with self.writing() as session:
            environment = self._ids.get(trial.environment) or environment_id(session, trial.environment)
            problem = self._ids.get(trial.problem) or problem_id(session, trial.problem)
            id_ = _add(session, run, trial, samples, environment, problem)
        # Not before the commit: a row that was rolled back has no id.
        self._ids |= {trial.environment: environment, trial.problem: problem}
        return id_

    def trials(
        self,
        *,
        problem: Problem,
        stage: Stage,
        backend: str,
        environment_key: str,
        workload: str | None,
        space_digest: str | None = None,
        config: Config | None = None,
    ) -> list[StoredTrial]:
        """Trials of one stage of a problem on one stack, oldest first; never one that was contended.

        Args:
            workload: the measuring conditions; only times of equal ones are comparable. None: any.
            space_digest: only trials of this search-space file; None: of any.
            config: only trials of this config; None: of any.
        """
        query = (
            select(Trial)
            .join(ProblemRow, ProblemRow.id == Trial.problem_id)
            .join(Environment, Environment.id == Trial.environment_id)
            .where(
                ProblemRow.key == problem.key,
                Environment.key == environment_key,
                Trial.stage == stage,
                Trial.backend == backend,
                Trial.contended.is_(None),
            )
            .order_by(Trial.created_at, Trial.id)
        )
        if workload is not None:
            query = query.where(Trial.workload == workload)
        if config is not None:
            query = query.where(Trial.config == config.key)
        if space_digest is not None:
            query = query.where(Trial.space_digest == space_digest)
        with self.reading() as session:
            reader = Reader.of(session)
            return [trial_record(reader, row) for row in session.scalars(query)]

    def facts_of(self, winners: Sequence[WinnerRecord]) -> list[dict[Stage, StaticFacts]]:
        """Static facts of each winner's stages, from its config's newest trial on the same stack.

        Asked for once a stack and backend, however many winners it has.
        """
        stacks: dict[tuple[str, str], list[WinnerRecord]] = {}
        for winner in winners:
            stacks.setdefault((winner.environment.key, winner.backend), []).append(winner)
        facts: dict[tuple[str, ...], StaticFacts] = {}
        with self.reading() as session:
            for stack, alike in stacks.items():
                for first in range(0, len(alike), _AT_ONCE):
                    rows = _facts(session, *stack, alike[first : first + _AT_ONCE])
                    facts |= {(*stack, *row[:3]): _static_facts(row[3]) for row in rows}
        return [
            {
                stage: facts.get(
                    (w.environment.key, w.backend, w.problem.key, stage, w.config.of(stage).key),
                    StaticFacts(),
                )
                for stage in Stage
            }
            for w in winners
        ]

    def trials_of(self, run: int, *, contended: bool = False) -> list[StoredTrial]:
        """A run's trials in order.

        Args:
            contended: those that were timed while others were on the GPU, and put off; else all the others.
        """
        which = Trial.contended.is_not(None) if contended else Trial.contended.is_(None)
        with self.reading() as session:
            reader = Reader.of(session)
            query = select(Trial).where(Trial.run_id == run, which).order_by(Trial.number)
            return [trial_record(reader, row) for row in session.scalars(query)]

    def trial(self, trial: int) -> StoredTrial:
        """The trial with an id.

        Raises:
            LookupError: there is none.
        """
        with self.reading() as session:
            row = session.get(Trial, trial)
            if row is None:
                raise LookupError(f"there is no trial {trial}")
            return trial_record(Reader.of(session), row)

    def samples(self, trial: int) -> tuple[Sample, ...]:
        """A trial's raw samples in order; empty for one that shares another's machine code."""
        with self.reading() as session:
            rows = session.scalars(
                select(SampleRow).where(SampleRow.trial_id == trial).order_by(SampleRow.number)
            )
            return tuple(Sample(row.us, row.clock_mhz, row.throttled) for row in rows)

    def trial_counts(self, run: int) -> dict[Status, int]:
        """Trials of a run by status, contended ones apart; a status that none has is left out."""
        mine = (Trial.run_id == run, Trial.contended.is_(None))
        query = select(Trial.status, func.count()).where(*mine).group_by(Trial.status)
        with self.reading() as session:
            return {row[0]: row[1] for row in session.execute(query)}


def _facts(
    session: Session, environment_key: str, backend: str, winners: Sequence[WinnerRecord]
) -> Iterable[tuple[str, Stage, str, dict[str, int]]]:
    """Problem, stage, config and facts of trials, oldest first, among them those of the winners' configs."""
    return session.execute(
        select(ProblemRow.key, Trial.stage, Trial.config, Trial.facts)
        .join(ProblemRow, ProblemRow.id == Trial.problem_id)
        .join(Environment, Environment.id == Trial.environment_id)
        .where(
            ProblemRow.key.in_({winner.problem.key for winner in winners}),
            Environment.key == environment_key,
            Trial.stage.in_(list(Stage)),
            Trial.backend == backend,
            Trial.contended.is_(None),
            Trial.config.in_({winner.config.of(stage).key for winner in winners for stage in Stage}),
        )
        .order_by(Trial.created_at, Trial.id)
    )


def _static_facts(stored: Mapping[str, int]) -> StaticFacts:
    return StaticFacts(**{name: fact for name, fact in stored.items() if name in _FACTS})


def _add(
    session: Session,
    run: int,
    trial: TrialRecord,
    samples: Sequence[Sample],
    environment: int,
    problem: int,
) -> int:
    """Writes a trial; returns its id."""
    connection = session.connection()
    result = connection.execute(
        _INSERT_TRIAL,
        {
            "run_id": run,
            "number": next_number(session, Trial, run),
            "environment_id": environment,
            "problem_id": problem,
            "stage": trial.stage,
            "backend": trial.backend,
            "space_digest": trial.space_digest,
            "workload": trial.workload,
            "config": trial.config.key,
            "origin": trial.origin,
            "status": trial.status,
            "kind": trial.kind,
            "figure_us": trial.time_us,
            "gate_error": storable_error(trial.gate_error),
            "reason": trial.reason,
            "facts": {name: fact for name, fact in asdict(trial.facts).items() if fact is not None},
            "binary_hash": trial.binary_hash,
            "compile_s": trial.compile_s,
            "measure_s": trial.measure_s,
            "merged_into": trial.merged_into,
            "contended": trial.contended,
            **gpu_columns(trial.gpu),
            "created_at": datetime.now(UTC),
        },
    )
    assert result.inserted_primary_key is not None
    id_ = int(result.inserted_primary_key[0])
    if samples:
        rows = [
            {"trial_id": id_, "number": n, "us": s.us, "clock_mhz": s.clock_mhz, "throttled": s.throttled}
            for n, s in enumerate(samples)
        ]
        connection.execute(_INSERT_SAMPLES, rows)
    return id_


def trial_record(reader: Reader, row: Trial) -> StoredTrial:
    """A row of `trials` as a record."""
    return StoredTrial(
        id=row.id,
        run=row.run_id,
        number=row.number,
        created_at=row.created_at,
        problem=reader.problem(row.problem_id),
        stage=row.stage,
        backend=row.backend,
        environment=reader.environment(row.environment_id, row.run_id),
        space_digest=row.space_digest,
        workload=row.workload,
        config=Config.from_key(row.config),
        origin=row.origin,
        status=row.status,
        kind=row.kind,
        time_us=row.time_us,
        gate_error=row.gate_error,
        reason=row.reason,
        facts=_static_facts(row.facts),
        binary_hash=row.binary_hash,
        compile_s=row.compile_s,
        measure_s=row.measure_s,
        merged_into=row.merged_into,
        contended=row.contended,
        gpu=stored_gpu(row.host, row.gpu),
    )
