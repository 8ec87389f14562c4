"""What a report asks of the store beyond single records: a run's winners, and trials sorted into groups."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select

from autotune.fingerprint import Fingerprint
from autotune.problem import Problem, Stage
from autotune.results import Kind, Status
from autotune.store.records import RunRecord, StoredConfirmation, StoredTrial, WinnerRecord
from autotune.store.rows import Reader
from autotune.store.schema import ConfirmationRow, Winner
from autotune.store.store import Store
from autotune.store.winners import winner_record


@dataclass(frozen=True)
class Conditions:
    """What must be equal for figures to be compared: one stack, one way of measuring, one kind."""

    problem: Problem
    backend: str
    environment: Fingerprint
    kind: Kind
    workload: str


def conditions_of(trial: StoredTrial) -> Conditions:
    """The conditions of a trial's figure."""
    return Conditions(trial.problem, trial.backend, trial.environment, trial.kind, trial.workload)


def winners_of(store: Store, run: int) -> list[WinnerRecord]:
    """The winners that a run made, the best entry only of each short list; superseded ones included."""
    query = select(Winner).where(Winner.run_id == run, Winner.rank == 0).order_by(Winner.number)
    with store.reading() as session:
        reader = Reader(session)
        return [winner_record(reader, row) for row in session.scalars(query)]


def confirmations_of(store: Store, run: int) -> list[StoredConfirmation]:
    """The confirmations of a run, in order."""
    query = select(ConfirmationRow.id).where(ConfirmationRow.run_id == run).order_by(ConfirmationRow.number)
    with store.reading() as session:
        ids = list(session.scalars(query))
    return [store.confirmation(id_) for id_ in ids]


def grouped(trials: Iterable[StoredTrial]) -> dict[Conditions, dict[Stage, list[StoredTrial]]]:
    """Trials by what may be compared and by stage; of a config that was tried again, the newest."""
    groups: dict[Conditions, dict[Stage, dict[str, StoredTrial]]] = defaultdict(
        lambda: {stage: {} for stage in Stage}
    )
    for trial in sorted(trials, key=lambda trial: (trial.created_at, trial.id)):
        kept = groups[conditions_of(trial)][trial.stage]
        kept.pop(trial.config.key, None)  # so that the newest also stands where it was made
        kept[trial.config.key] = trial
    return {
        conditions: {stage: list(kept.values()) for stage, kept in stages.items()}
        for conditions, stages in groups.items()
    }


def trials_until(store: Store, run: RunRecord) -> list[StoredTrial]:
    """The trials that a run's search knew: its own, and earlier ones of its problems on its stack."""
    own = store.trials_of(run.id)
    known = {trial.id: trial for trial in own}
    for problem, backend, workload in {(t.problem, t.backend, t.workload) for t in own}:
        assert run.environment is not None
        for stage in Stage:
            for trial in store.trials(
                problem=problem,
                stage=stage,
                backend=backend,
                environment_key=run.environment.key,
                workload=workload,
            ):
                if run.ended_at is None or trial.created_at <= run.ended_at:
                    known[trial.id] = trial
    return list(known.values())


def fastest(trials: Iterable[StoredTrial]) -> list[StoredTrial]:
    """Those with a figure, the fastest first."""
    timed = [trial for trial in trials if trial.figure_us is not None]
    return sorted(timed, key=lambda trial: (trial.figure_us or 0.0, trial.id))


def default_of(trials: Iterable[StoredTrial]) -> StoredTrial | None:
    """The trial of what ships; None: it was not tried in these."""
    return next((trial for trial in trials if trial.origin == "default"), None)


def failures(trials: Iterable[StoredTrial]) -> list[StoredTrial]:
    """Those without a figure."""
    return [trial for trial in trials if trial.status is not Status.OK]
