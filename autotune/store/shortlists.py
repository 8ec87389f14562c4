"""Short lists: layer configs ranked by an estimate, kept as winners of kind `estimate`."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.results import LayerConfig, Status
from autotune.store.records import ShortListed, WinnerRecord
from autotune.store.rows import Reader, environment_id, next_number, problem_id
from autotune.store.schema import Environment, ProblemRow, Winner
from autotune.store.sessions import Sessions
from autotune.store.verdicts import wrong_binaries
from autotune.store.winners import decided_at, statuses_of, winner_record


class ShortLists(Sessions):
    """The short lists of an open database."""

    def record_short_list(
        self,
        run: int,
        *,
        problem: Problem,
        backend: str,
        environment: Fingerprint,
        default: LayerConfig,
        entries: Sequence[ShortListed],
        workload: str | None = None,
    ) -> list[int]:
        """Writes layer configs ranked by an estimate, the best first; returns their ids as winners.

        Args:
            workload: conditions of the trials that the ranking went by, to which entries are tied; None: any.

        Raises:
            ValueError: a stage's config was not tried on this problem and environment, or its trial failed.
        """
        with self.writing() as session:
            return [
                _add(session, run, problem, backend, environment, default, entry, rank, workload)
                for rank, entry in enumerate(entries)
            ]

    def short_list(self, best: WinnerRecord) -> list[WinnerRecord]:
        """All entries of the short list whose best entry is given, by rank."""
        query = (
            select(Winner)
            .join(ProblemRow, ProblemRow.id == Winner.problem_id)
            .join(Environment, Environment.id == Winner.environment_id)
            .where(
                Winner.run_id == best.run,
                Winner.kind == Kind.ESTIMATE,
                Winner.backend == best.backend,
                ProblemRow.key == best.problem.key,
                Environment.key == best.environment.key,
                Winner.id >= best.id,
            )
            .order_by(Winner.id)
        )
        with self.reading() as session:
            reader = Reader.of(session)
            entries = [winner_record(reader, row) for row in session.scalars(query)]
        # A later list of the same run begins again at rank 0.
        return [record for rank, record in enumerate(entries) if record.rank == rank]


def _add(
    session: Session,
    run: int,
    problem: Problem,
    backend: str,
    environment: Fingerprint,
    default: LayerConfig,
    entry: ShortListed,
    rank: int,
    workload: str | None,
) -> int:
    """Writes one entry of a short list, tied to the trials that it comes from; returns its id.

    Raises:
        ValueError: a stage's config was not tried, or its trial is not ok.
    """
    row = Winner(
        run_id=run,
        number=next_number(session, Winner, run),
        problem_id=problem_id(session, problem),
        backend=backend,
        environment_id=environment_id(session, environment),
        kind=Kind.ESTIMATE,
        rank=rank,
        stage1_config=entry.config.stage1.key,
        stage2_config=entry.config.stage2.key,
        default_stage1_config=default.stage1.key,
        default_stage2_config=default.stage2.key,
        kept_default=entry.config == default,
        gain=entry.gain,
    )
    row.created_at = decided_at(session, row)
    trials: dict[Stage, int | None] = {}
    for stage in Stage:
        config = entry.config.of(stage)
        statuses = statuses_of(session, row, stage, config.key)
        if Status.INCORRECT in (status for _, status in statuses):
            raise ValueError(
                f"{stage} {config} failed the numeric gate in a trial: it cannot be short-listed"
            )
        ranked = statuses_of(session, row, stage, config.key, workload)
        trials[stage] = next((id_ for id_, status in reversed(ranked) if status is Status.OK), None)
        # The default may stand for a stage that was not searched.
        if trials[stage] is None and (statuses or config != default.of(stage)):
            raise ValueError(f"{stage} {config} has no trial that is ok: it cannot be short-listed")
    row.stage1_trial_id, row.stage2_trial_id = trials[Stage.STAGE1], trials[Stage.STAGE2]
    (wrong,) = wrong_binaries(session, [row])
    if wrong is not None:
        raise ValueError(wrong)
    session.add(row)
    session.flush()
    return row.id
