"""Layers that searches tried: pairs of configs, each timed beside the default."""

from datetime import UTC, datetime
from statistics import median

from sqlalchemy import select

from autotune.problem.layer import Problem
from autotune.results import Failure, LayerConfig, LayerMeasurement, Status
from autotune.store.records import LayerTrial
from autotune.store.rows import (
    Reader,
    environment_id,
    gpu_columns,
    layer_config,
    next_number,
    problem_id,
    storable_error,
    stored_gpu,
)
from autotune.store.schema import Environment, LayerRow, ProblemRow
from autotune.store.sessions import Sessions


class Layers(Sessions):
    """The layers of an open database."""

    def record_layer(self, run: int, trial: LayerTrial) -> int:
        """Writes a finished layer with its raw samples; returns its id."""
        outcome = trial.outcome
        measured = outcome if isinstance(outcome, LayerMeasurement) else None
        with self.writing() as session:
            environment = self._ids.get(trial.environment) or environment_id(session, trial.environment)
            problem = self._ids.get(trial.problem) or problem_id(session, trial.problem)
            row = LayerRow(
                run_id=run,
                number=next_number(session, LayerRow, run),
                environment_id=environment,
                problem_id=problem,
                backend=trial.backend,
                workload=trial.workload,
                stage1_config=trial.config.stage1.key,
                stage2_config=trial.config.stage2.key,
                default_stage1_config=trial.default.stage1.key,
                default_stage2_config=trial.default.stage2.key,
                origin=trial.origin,
                status=outcome.status if isinstance(outcome, Failure) else Status.OK,
                kind=trial.kind,
                time_us=median(measured.us) if measured else None,
                default_us=median(measured.default_us) if measured else None,
                samples={"us": list(measured.us), "default_us": list(measured.default_us)}
                if measured
                else {},
                gate_error=storable_error(outcome.error),
                reason=outcome.reason if isinstance(outcome, Failure) else None,
                measure_s=outcome.seconds,
                contended=measured.contended if measured else None,
                **gpu_columns(measured.gpu if measured else None),
                created_at=datetime.now(UTC),
            )
            session.add(row)
            session.flush()
            return row.id

    def layers(
        self,
        *,
        problem: Problem,
        backend: str,
        environment_key: str,
        workload: str,
        default: LayerConfig,
    ) -> list[LayerTrial]:
        """Layers of a problem on one stack beside one default, oldest first; never one that was contended."""
        query = (
            select(LayerRow)
            .join(ProblemRow, ProblemRow.id == LayerRow.problem_id)
            .join(Environment, Environment.id == LayerRow.environment_id)
            .where(
                ProblemRow.key == problem.key,
                Environment.key == environment_key,
                LayerRow.backend == backend,
                LayerRow.workload == workload,
                LayerRow.default_stage1_config == default.stage1.key,
                LayerRow.default_stage2_config == default.stage2.key,
                LayerRow.contended.is_(None),
            )
            .order_by(LayerRow.created_at, LayerRow.id)
        )
        with self.reading() as session:
            reader = Reader.of(session)
            return [_record(reader, row) for row in session.scalars(query)]

    def layers_of(self, run: int) -> list[LayerTrial]:
        """A run's layers in order."""
        with self.reading() as session:
            reader = Reader.of(session)
            query = select(LayerRow).where(LayerRow.run_id == run).order_by(LayerRow.number)
            return [_record(reader, row) for row in session.scalars(query)]


def _record(reader: Reader, row: LayerRow) -> LayerTrial:
    outcome: LayerMeasurement | Failure
    if row.status is Status.OK:
        us, default_us = (tuple(row.samples[name]) for name in ("us", "default_us"))
        gpu = stored_gpu(row.host, row.gpu)
        outcome = LayerMeasurement(us, default_us, row.gate_error or 0.0, row.measure_s, row.contended, gpu)
    else:
        outcome = Failure(row.status, row.reason or "", row.measure_s, row.gate_error)
    return LayerTrial(
        problem=reader.problem(row.problem_id),
        backend=row.backend,
        environment=reader.environment(row.environment_id, row.run_id),
        workload=row.workload,
        config=layer_config(row.stage1_config, row.stage2_config),
        default=layer_config(row.default_stage1_config, row.default_stage2_config),
        origin=row.origin,
        kind=row.kind,
        outcome=outcome,
    )
