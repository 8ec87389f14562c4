"""Winners: what a confirmation chose, and the finding of winners old and near."""

import math
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.results import LayerConfig, Status
from autotune.store.records import WinnerRecord
from autotune.store.rows import Reader, existing, layer_config, next_number
from autotune.store.schema import ConfirmationRow, Environment, FinalistRow, ProblemRow, Trial, Winner
from autotune.store.sessions import Sessions
from autotune.store.verdicts import wrong_binaries


def statuses_of(
    session: Session, winner: Winner, stage: Stage, config: str, workload: str | None = None
) -> list[tuple[int, Status]]:
    """Id and status of the trials that a winner's config had, oldest first.

    Args:
        workload: only under these conditions; None: any.
    """
    rows = session.execute(
        select(Trial.id, Trial.status)
        .where(
            Trial.problem_id == winner.problem_id,
            Trial.environment_id == winner.environment_id,
            Trial.backend == winner.backend,
            Trial.stage == stage,
            Trial.config == config,
            *([] if workload is None else [Trial.workload == workload]),
        )
        .order_by(Trial.created_at, Trial.id)
    )
    return [(id_, status) for id_, status in rows]


def decided_at(session: Session, winner: Winner) -> datetime:
    """Now, or just after the winner that it follows: hosts' clocks differ, and are set back."""
    columns = (Winner.problem_id, Winner.backend, Winner.environment_id, Winner.kind)
    alike = [column == getattr(winner, column.key) for column in columns]
    newest, now = session.scalar(select(func.max(Winner.created_at)).where(*alike)), datetime.now(UTC)
    return now if newest is None or newest < now else newest + timedelta(microseconds=1)


def winner_record(reader: Reader, row: Winner) -> WinnerRecord:
    """A row of `winners` as a record."""
    return WinnerRecord(
        id=row.id,
        run=row.run_id,
        problem=reader.problem(row.problem_id),
        backend=row.backend,
        environment=reader.environment(row.environment_id, row.run_id),
        kind=row.kind,
        rank=row.rank,
        config=layer_config(row.stage1_config, row.stage2_config),
        default=layer_config(row.default_stage1_config, row.default_stage2_config),
        gain=row.gain,
        gain_low=row.gain_low,
        gain_high=row.gain_high,
        confirmation=row.confirmation_id,
        stage1_trial=row.stage1_trial_id,
        stage2_trial=row.stage2_trial_id,
        created_at=row.created_at,
        shared=reader.shared(row.confirmation_id),
    )


def _records(session: Session, query: Select[Winner]) -> list[WinnerRecord]:
    reader = Reader.of(session)
    rows = session.scalars(query).all()
    reader.look_ahead(rows)
    return [winner_record(reader, row) for row in rows]


class Winners(Sessions):
    """The winners of an open database."""

    def record_winner(self, run: int, confirmation: int) -> int:
        """Makes a confirmation's choice the winner of its problem; returns the winner's id.

        Everything about the winner comes from the confirmation: no time can be given by hand.

        Raises:
            LookupError: there is no such confirmation.
            ValueError: the choice failed the numeric gate, there or in a trial of the same environment.
            sqlalchemy.exc.IntegrityError: the choice is not the default and not faster than it.
        """
        with self.writing() as session:
            return _add(session, run, confirmation)

    def winners(
        self,
        *,
        problem: Problem | None = None,
        backend: str | None = None,
        environment_key: str | None = None,
        kind: Kind | None = None,
        device: str | None = None,
        among: Collection[int] | None = None,
        newest: int | None = None,
    ) -> list[WinnerRecord]:
        """The latest winner of each problem, backend, environment and kind, oldest first.

        Args:
            problem, backend, environment_key, kind: only these; None: any.
            device: part of the device's name; None: any.
            among: ids, of which the latest are wanted; None: any.
            newest: so many at most; None: all.
        """
        only: list[ColumnElement[bool]] = []
        if device is not None:
            on = select(Environment.id).where(Environment.device.icontains(device, autoescape=True))
            only.append(Winner.environment_id.in_(on))
        if problem is not None:
            only.append(Winner.problem_id.in_(select(ProblemRow.id).where(ProblemRow.key == problem.key)))
        if environment_key is not None:
            stack = select(Environment.id).where(Environment.key == environment_key)
            only.append(Winner.environment_id.in_(stack))
        if backend is not None:
            only.append(Winner.backend == backend)
        if kind is not None:
            only.append(Winner.kind == kind)
        if among is not None:
            only.append(Winner.id.in_(among))
        with self.reading() as session:
            return _records(session, _latest(*only, newest=newest))

    def nearby_winners(
        self, problem: Problem, backend: str, *, within: float = 4.0, limit: int = 8
    ) -> list[WinnerRecord]:
        """Winners of any environment at near token counts of the same layer dimensions, the nearest first.

        They are seeds, not results: their times are other problems' or other stacks'.

        Args:
            within: the largest ratio of token counts; a winner does not carry over a long distance.
            limit: how many at most; equal configs count once.
        """
        with self.reading() as session:
            winners = _records(session, _near(problem, backend, within))
        unlike: dict[LayerConfig, WinnerRecord] = {}
        for record in sorted(winners, key=lambda record: _distance(problem, record)):
            unlike.setdefault(record.config, record)
        return list(unlike.values())[:limit]


def _add(session: Session, run: int, confirmation: int) -> int:
    """Writes what a confirmation chose; returns the winner's id.

    Raises:
        ValueError: the finalist failed the numeric gate, there or in a trial of the same environment, or a
            check found its binary wrong.
    """
    confirmed = existing(session, ConfirmationRow, confirmation)
    chosen = session.get_one(FinalistRow, (confirmation, confirmed.winner))
    default = session.get_one(FinalistRow, (confirmation, 0))
    row = Winner(
        run_id=run,
        number=next_number(session, Winner, run),
        problem_id=confirmed.problem_id,
        backend=confirmed.backend,
        environment_id=confirmed.environment_id,
        kind=confirmed.kind,
        rank=0,
        stage1_config=chosen.stage1_config,
        stage2_config=chosen.stage2_config,
        default_stage1_config=default.stage1_config,
        default_stage2_config=default.stage2_config,
        kept_default=_same(chosen, default),
        gain=confirmed.gain,
        gain_low=confirmed.gain_low,
        gain_high=confirmed.gain_high,
        confirmation_id=confirmation,
        finalist=confirmed.winner,
    )
    row.created_at = decided_at(session, row)
    if not chosen.passed:
        raise ValueError(
            f"finalist {confirmed.winner} of confirmation {confirmation} failed the numeric gate"
        )
    for stage, config in ((Stage.STAGE1, row.stage1_config), (Stage.STAGE2, row.stage2_config)):
        for id_, status in statuses_of(session, row, stage, config):
            if status is Status.INCORRECT:
                reason = session.get_one(Trial, id_).reason
                raise ValueError(f"{stage} {config} failed the numeric gate in a trial: {reason}")
    (wrong,) = wrong_binaries(session, [row])
    if wrong is not None:
        raise ValueError(wrong)
    session.add(row)
    session.flush()
    return row.id


def _same(first: FinalistRow, second: FinalistRow) -> bool:
    return (first.stage1_config, first.stage2_config) == (second.stage1_config, second.stage2_config)


def _latest(*only: ColumnElement[bool], newest: int | None = None) -> Select[Winner]:
    """The newest best of each problem, backend, environment and kind: an estimate never hides a winner.

    Args:
        only: conditions on these four, which leave whole groups out.
        newest: so many at most; None: all.
    """
    # By time, not by id: what was merged from another machine may be older than what was here.
    age = func.row_number().over(
        partition_by=(Winner.problem_id, Winner.backend, Winner.environment_id, Winner.kind),
        order_by=(Winner.created_at.desc(), Winner.id.desc()),
    )
    ages = select(Winner.id, Winner.created_at, age.label("age")).where(Winner.rank == 0, *only).subquery()
    latest = select(ages.c.id).where(ages.c.age == 1)
    if newest is not None:  # before whole rows are read
        latest = latest.order_by(ages.c.created_at.desc(), ages.c.id.desc()).limit(newest)
    return select(Winner).where(Winner.id.in_(latest)).order_by(Winner.created_at, Winner.id)


def _near(problem: Problem, backend: str, within: float) -> Select[Winner]:
    """The latest winners of equal layer dimensions at up to `within` times more or fewer tokens."""
    layer = problem.layer
    near = select(ProblemRow.id).where(
        ProblemRow.model_dim == layer.model_dim,
        ProblemRow.inter_dim == layer.inter_dim,
        ProblemRow.experts == layer.experts,
        ProblemRow.top_k == layer.top_k,
        ProblemRow.tokens.between(problem.tokens / within, problem.tokens * within),
    )
    return _latest(Winner.backend == backend, Winner.problem_id.in_(near))


def _distance(problem: Problem, winner: WinnerRecord) -> tuple[float, bool, bool, float]:
    """Sorts near winners: fewest doublings of tokens, measured before others, same routing, newest."""
    doublings = abs(math.log2(winner.problem.tokens / problem.tokens))
    return (
        doublings,
        winner.kind is not Kind.MEASURED,
        winner.problem.routing != problem.routing,
        -winner.created_at.timestamp(),
    )
