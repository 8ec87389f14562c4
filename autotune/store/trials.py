"""Trials and their samples: rows in, records out."""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from autotune.config import Config
from autotune.results import Sample, StaticFacts
from autotune.store.records import StoredTrial, TrialRecord
from autotune.store.rows import Reader, next_number
from autotune.store.schema import SampleRow, Trial

_FACTS = frozenset(field.name for field in fields(StaticFacts))


def add_trial(
    session: Session,
    run: int,
    trial: TrialRecord,
    samples: Sequence[Sample],
    environment_id: int,
    problem_id: int,
) -> int:
    """Writes a trial; returns its id."""
    id_ = session.scalars(
        insert(Trial)
        .returning(Trial.id)
        .values(
            run_id=run,
            number=next_number(session, Trial.number, run),
            environment_id=environment_id,
            problem_id=problem_id,
            stage=trial.stage,
            backend=trial.backend,
            space_digest=trial.space_digest,
            workload=trial.workload,
            config=trial.config.key,
            origin=trial.origin,
            status=trial.status,
            kind=trial.kind,
            figure_us=trial.figure_us,
            gate_error=storable_error(trial.gate_error),
            reason=trial.reason,
            facts={name: fact for name, fact in asdict(trial.facts).items() if fact is not None},
            binary_hash=trial.binary_hash,
            compile_s=trial.compile_s,
            measure_s=trial.measure_s,
            merged_into=trial.merged_into,
            created_at=datetime.now(UTC),
        )
    ).one()
    if samples:
        session.execute(
            insert(SampleRow),
            [
                {
                    "trial_id": id_,
                    "number": number,
                    "us": sample.us,
                    "clock_mhz": sample.clock_mhz,
                    "throttled": sample.throttled,
                }
                for number, sample in enumerate(samples)
            ],
        )
    return id_


def storable_error(error: float | None) -> float | None:
    """A gate error that survives SQLite, which stores NaN as NULL: nothing is more wrong than NaN."""
    return math.inf if error is not None and math.isnan(error) else error


def stored_trial(reader: Reader, row: Trial) -> StoredTrial:
    return StoredTrial(
        id=row.id,
        run=row.run_id,
        number=row.number,
        created_at=row.created_at,
        problem=reader.problem(row.problem_id),
        stage=row.stage,
        backend=row.backend,
        environment=reader.environment(row.environment_id),
        space_digest=row.space_digest,
        workload=row.workload,
        config=Config.from_key(row.config),
        origin=row.origin,
        status=row.status,
        kind=row.kind,
        figure_us=row.figure_us,
        gate_error=row.gate_error,
        reason=row.reason,
        facts=StaticFacts(**{name: fact for name, fact in row.facts.items() if name in _FACTS}),
        binary_hash=row.binary_hash,
        compile_s=row.compile_s,
        measure_s=row.measure_s,
        merged_into=row.merged_into,
    )


def samples_of(session: Session, trial: int) -> tuple[Sample, ...]:
    rows = session.scalars(select(SampleRow).where(SampleRow.trial_id == trial).order_by(SampleRow.number))
    return tuple(Sample(row.us, row.clock_mhz, row.throttled) for row in rows)
