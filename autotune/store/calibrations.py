"""Calibrations: the same configs on each of several equal GPUs."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import func, select

from autotune.problem.layer import Problem
from autotune.results import Gpu
from autotune.space.config import Config
from autotune.store.records import CalibrationWindow
from autotune.store.rows import Reader, gpu_columns, next_number, problem_id, stored_gpu
from autotune.store.schema import CalibrationRow, Environment, ProblemRow, Trial
from autotune.store.sessions import Sessions


class Calibrations(Sessions):
    """The calibrations of an open database."""

    def record_calibration(self, run: int, windows: Sequence[CalibrationWindow]) -> None:
        """Writes a run's calibration, all of it or nothing."""
        with self.writing() as session:
            number = next_number(session, CalibrationRow, run)
            session.add_all(
                CalibrationRow(
                    run_id=run,
                    number=number + index,
                    problem_id=problem_id(session, window.problem),
                    stage=window.stage,
                    config=window.config.key,
                    **gpu_columns(window.gpu),
                    us=window.us,
                    created_at=datetime.now(UTC),
                )
                for index, window in enumerate(windows)
            )

    def calibration(self, run: int) -> list[CalibrationWindow]:
        """A run's calibration, in its order; empty: it had one GPU."""
        query = select(CalibrationRow).where(CalibrationRow.run_id == run).order_by(CalibrationRow.number)
        with self.reading() as session:
            reader = Reader.of(session)
            return [
                CalibrationWindow(
                    reader.problem(row.problem_id),
                    row.stage,
                    Config.from_key(row.config),
                    Gpu(row.host, row.gpu),
                    row.us,
                )
                for row in session.scalars(query)
            ]

    def gpus_of(
        self, problem: Problem, *, backend: str, environment_key: str, workload: str
    ) -> dict[Gpu, int]:
        """On which GPUs the trials of a problem were measured, and how many on each."""
        query = (
            select(Trial.host, Trial.gpu, func.count())
            .join(ProblemRow, ProblemRow.id == Trial.problem_id)
            .join(Environment, Environment.id == Trial.environment_id)
            .where(
                ProblemRow.key == problem.key,
                Environment.key == environment_key,
                Trial.backend == backend,
                Trial.workload == workload,
            )
            .group_by(Trial.host, Trial.gpu)
        )
        with self.reading() as session:
            counts = [(stored_gpu(host, gpu), count) for host, gpu, count in session.execute(query)]
        return {gpu: count for gpu, count in counts if gpu is not None}
