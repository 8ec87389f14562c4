"""Confirmations, the winners that come from them, and short lists: rows in, records out."""

import math
from collections import defaultdict
from datetime import UTC, datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from autotune.config import Config
from autotune.fingerprint import Fingerprint
from autotune.problem import Problem, Stage
from autotune.results import Confirmation, Finalist, Kind, LayerConfig, Round, Status
from autotune.store.records import ShortListed, StoredConfirmation, WinnerRecord
from autotune.store.rows import Reader, environment_id, next_number, problem_id
from autotune.store.schema import ConfirmationRow, FinalistRow, ProblemRow, RoundRow, Trial, Winner
from autotune.store.trials import storable_error


def add_confirmation(
    session: Session,
    run: int,
    confirmation: Confirmation,
    backend: str,
    environment: Fingerprint,
    workload: str,
    kind: Kind,
) -> int:
    """Writes a confirmation with its finalists and every round's times; returns its id."""
    row = ConfirmationRow(
        run_id=run,
        number=next_number(session, ConfirmationRow.number, run),
        environment_id=environment_id(session, environment),
        problem_id=problem_id(session, confirmation.problem),
        backend=backend,
        workload=workload,
        kind=kind,
        winner=confirmation.winner,
        gain=confirmation.gain,
        gain_low=confirmation.gain_low,
        gain_high=confirmation.gain_high,
        notes=list(confirmation.notes),
        created_at=datetime.now(UTC),
    )
    session.add(row)
    session.flush()
    for position, (finalist, error) in enumerate(
        zip(confirmation.finalists, confirmation.errors, strict=True)
    ):
        session.add(
            FinalistRow(
                confirmation_id=row.id,
                position=position,
                label=finalist.label,
                stage1_config=finalist.config.stage1.key,
                stage2_config=finalist.config.stage2.key,
                error=storable_error(error),
                passed=error is not None,
            )
        )
    session.flush()
    session.add_all(
        RoundRow(confirmation_id=row.id, number=number, position=position, part=part, us=us)
        for number, round_ in enumerate(confirmation.rounds)
        for position, parts in enumerate(round_.us)
        for part, us in parts.items()
    )
    session.flush()
    return row.id


def stored_confirmation(session: Session, reader: Reader, row: ConfirmationRow) -> StoredConfirmation:
    finalists = session.scalars(
        select(FinalistRow).where(FinalistRow.confirmation_id == row.id).order_by(FinalistRow.position)
    ).all()
    times = session.scalars(select(RoundRow).where(RoundRow.confirmation_id == row.id))
    rounds: defaultdict[int, list[dict[str, float]]] = defaultdict(lambda: [{} for _ in finalists])
    for time in times:
        rounds[time.number][time.position][time.part] = time.us
    confirmation = Confirmation(
        problem=reader.problem(row.problem_id),
        finalists=tuple(
            Finalist(finalist.label, _layer(finalist.stage1_config, finalist.stage2_config))
            for finalist in finalists
        ),
        rounds=tuple(Round(tuple(rounds[number])) for number in sorted(rounds)),
        errors=tuple(finalist.error for finalist in finalists),
        winner=row.winner,
        gain=row.gain,
        gain_low=row.gain_low,
        gain_high=row.gain_high,
        notes=tuple(row.notes),
    )
    return StoredConfirmation(
        id=row.id,
        run=row.run_id,
        backend=row.backend,
        environment=reader.environment(row.environment_id),
        workload=row.workload,
        kind=row.kind,
        confirmation=confirmation,
        created_at=row.created_at,
    )


def add_winner(session: Session, run: int, confirmation: int) -> int:
    """Writes what a confirmation chose; returns the winner's id.

    Raises:
        ValueError: the finalist failed the numeric gate, there or in a trial of the same environment.
    """
    confirmed = session.get_one(ConfirmationRow, confirmation)
    chosen = session.get_one(FinalistRow, (confirmation, confirmed.winner))
    default = session.get_one(FinalistRow, (confirmation, 0))
    row = Winner(
        run_id=run,
        number=next_number(session, Winner.number, run),
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
        created_at=datetime.now(UTC),
    )
    if not chosen.passed:
        raise ValueError(
            f"finalist {confirmed.winner} of confirmation {confirmation} failed the numeric gate"
        )
    for stage, config in ((Stage.STAGE1, row.stage1_config), (Stage.STAGE2, row.stage2_config)):
        if Status.INCORRECT in (status for _, status in _fates(session, row, stage, config)):
            raise ValueError(f"{stage} {config} failed the numeric gate in a trial: it cannot be a winner")
    session.add(row)
    session.flush()
    return row.id


def add_short_listed(
    session: Session,
    run: int,
    problem: Problem,
    backend: str,
    environment: Fingerprint,
    default: LayerConfig,
    entry: ShortListed,
    rank: int,
) -> int:
    """Writes one entry of a short list, tied to the trials that it comes from; returns its id.

    Raises:
        ValueError: a stage's config was not tried, or its trial is not ok.
    """
    row = Winner(
        run_id=run,
        number=next_number(session, Winner.number, run),
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
        created_at=datetime.now(UTC),
    )
    trials: dict[Stage, int | None] = {}
    for stage in Stage:
        config = entry.config.of(stage)
        fates = _fates(session, row, stage, config.key)
        statuses = [status for _, status in fates]
        if Status.INCORRECT in statuses:
            raise ValueError(
                f"{stage} {config} failed the numeric gate in a trial: it cannot be short-listed"
            )
        if fates and statuses[-1] is Status.OK:
            trials[stage] = fates[-1][0]
        elif not fates and config == default.of(stage):
            trials[stage] = None  # this stage was not searched
        else:
            raise ValueError(f"{stage} {config} has no trial that is ok: it cannot be short-listed")
    row.stage1_trial_id, row.stage2_trial_id = trials[Stage.STAGE1], trials[Stage.STAGE2]
    session.add(row)
    session.flush()
    return row.id


def _fates(session: Session, winner: Winner, stage: Stage, config: str) -> list[tuple[int, Status]]:
    """Id and status of the trials that a winner's config had, oldest first."""
    rows = session.execute(
        select(Trial.id, Trial.status)
        .where(
            Trial.problem_id == winner.problem_id,
            Trial.environment_id == winner.environment_id,
            Trial.backend == winner.backend,
            Trial.stage == stage,
            Trial.config == config,
        )
        .order_by(Trial.id)
    )
    return [(id_, status) for id_, status in rows]


def _same(one: FinalistRow, other: FinalistRow) -> bool:
    return (one.stage1_config, one.stage2_config) == (other.stage1_config, other.stage2_config)


def _layer(stage1: str, stage2: str) -> LayerConfig:
    return LayerConfig(Config.from_key(stage1), Config.from_key(stage2))


def winner_record(reader: Reader, row: Winner) -> WinnerRecord:
    return WinnerRecord(
        id=row.id,
        run=row.run_id,
        problem=reader.problem(row.problem_id),
        backend=row.backend,
        environment=reader.environment(row.environment_id),
        kind=row.kind,
        rank=row.rank,
        config=_layer(row.stage1_config, row.stage2_config),
        default=_layer(row.default_stage1_config, row.default_stage2_config),
        gain=row.gain,
        gain_low=row.gain_low,
        gain_high=row.gain_high,
        confirmation=row.confirmation_id,
        stage1_trial=row.stage1_trial_id,
        stage2_trial=row.stage2_trial_id,
        created_at=row.created_at,
    )


def latest_winners() -> Select[Winner]:
    """The newest best of each problem, backend, environment and kind: an estimate never hides a winner."""
    newest = (
        select(func.max(Winner.id))
        .where(Winner.rank == 0)
        .group_by(Winner.problem_id, Winner.backend, Winner.environment_id, Winner.kind)
    )
    return select(Winner).where(Winner.id.in_(newest)).order_by(Winner.id)


def near(problem: Problem, backend: str, within: float) -> Select[Winner]:
    """The latest winners of equal layer dimensions at up to `within` times more or fewer tokens."""
    layer = problem.layer
    return (
        latest_winners()
        .join(ProblemRow, ProblemRow.id == Winner.problem_id)
        .where(
            Winner.backend == backend,
            ProblemRow.model_dim == layer.model_dim,
            ProblemRow.inter_dim == layer.inter_dim,
            ProblemRow.experts == layer.experts,
            ProblemRow.top_k == layer.top_k,
            ProblemRow.tokens.between(problem.tokens / within, problem.tokens * within),
        )
    )


def distance(problem: Problem, winner: WinnerRecord) -> tuple[float, bool, bool, int]:
    """Sorts near winners: fewest doublings of tokens, measured before others, same routing, newest."""
    doublings = abs(math.log2(winner.problem.tokens / problem.tokens))
    return (
        doublings,
        winner.kind is not Kind.MEASURED,
        winner.problem.routing != problem.routing,
        -winner.id,
    )
