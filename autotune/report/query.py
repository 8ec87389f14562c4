"""Queries of reports beyond single records: a run's winners, and trials sorted into groups."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from sqlalchemy import select

from autotune.compile.estimate import EXECUTED, PROMISED
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.report.wording import AS_COMPILED, AS_EXECUTED
from autotune.results import Status
from autotune.store.records import RunRecord, StoredTrial, WinnerRecord
from autotune.store.rows import Reader
from autotune.store.schema import Winner
from autotune.store.store import Store
from autotune.store.winners import winner_record

RACE: Final = "race"
"""Origin of a further window of a candidate that was tried before."""


@dataclass(frozen=True)
class Conditions:
    """What must be equal for times to be compared: one stack, one way of measuring, one kind."""

    problem: Problem
    backend: str
    environment: Fingerprint
    kind: Kind
    workload: str

    @property
    def basis(self) -> str:
        """What an estimate goes by, see `autotune.report.wording.ESTIMATES`; "" for other kinds."""
        if self.kind is not Kind.ESTIMATE:
            return ""
        return AS_EXECUTED if self.workload == EXECUTED else AS_COMPILED

    @property
    def chapter(self) -> "Conditions":
        """What a report puts together: a problem's estimates of either basis, told apart within."""
        return replace(self, workload="") if self.kind is Kind.ESTIMATE else self


def conditions_of(trial: StoredTrial) -> Conditions:
    """The conditions of a trial's time."""
    return Conditions(trial.problem, trial.backend, trial.environment, trial.kind, trial.workload)


def winners_of(store: Store, run: int) -> list[WinnerRecord]:
    """The winners that a run made, the best entry only of each short list; superseded ones included."""
    query = select(Winner).where(Winner.run_id == run, Winner.rank == 0).order_by(Winner.number)
    with store.reading() as session:
        reader = Reader.of(session)
        return [winner_record(reader, row) for row in session.scalars(query)]


def conditions_of_winner(store: Store, winner: WinnerRecord) -> Conditions:
    """The conditions of what decided: a confirmation, or the trials that an estimate comes from."""
    workload = PROMISED
    if winner.confirmation is not None:
        workload = store.confirmation(winner.confirmation).workload
    elif winner.stage1_trial is not None:
        workload = store.trial(winner.stage1_trial).workload
    return Conditions(winner.problem, winner.backend, winner.environment, winner.kind, workload)


def grouped(trials: Iterable[StoredTrial]) -> dict[Conditions, dict[Stage, list[StoredTrial]]]:
    """Candidates by what may be compared and by stage, in the order in which they were first tried.

    A candidate that was tried again counts once, as it was tried last. Leaders of a search are measured
    again before the final, as trials of origin `race`: such a candidate's time is the mean of all its
    windows, and one that failed in a window has failed.
    """
    tried: dict[Conditions, dict[Stage, dict[str, StoredTrial]]] = defaultdict(
        lambda: {stage: {} for stage in Stage}
    )
    races: dict[tuple[Conditions, Stage, str], list[StoredTrial]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: (trial.created_at, trial.id)):
        conditions = conditions_of(trial)
        known = tried[conditions][trial.stage]
        if trial.origin == RACE and trial.config.key in known:
            races[conditions, trial.stage, trial.config.key].append(trial)
        else:
            known.pop(trial.config.key, None)  # so that the newest also stands where it was made
            known[trial.config.key] = trial
    return {
        conditions: {
            stage: [_with_windows(first, races[conditions, stage, key]) for key, first in known.items()]
            for stage, known in stages.items()
        }
        for conditions, stages in tried.items()
    }


def _with_windows(first: StoredTrial, windows: Sequence[StoredTrial]) -> StoredTrial:
    """A candidate in the light of what was measured of it again."""
    failed = next((window for window in windows if window.status is not Status.OK), None)
    if failed is not None:
        return replace(first, status=failed.status, time_us=None, reason=failed.reason)
    figures = [trial.time_us for trial in (first, *windows) if trial.time_us is not None]
    return replace(first, time_us=fmean(figures)) if windows and figures else first


def trials_until(store: Store, run: RunRecord) -> list[StoredTrial]:
    """The trials that a run knew: its own, and earlier ones of its problems on its stack.

    A run that found everything tried already has none of its own, and its winners name its problems.
    """
    own = store.trials_of(run.id)
    known = {trial.id: trial for trial in own}
    chapters = {conditions_of(trial).chapter for trial in own}
    chapters |= {conditions_of_winner(store, winner).chapter for winner in winners_of(store, run.id)}
    for chapter in chapters:
        for stage in Stage:
            for trial in store.trials(
                problem=chapter.problem,
                stage=stage,
                backend=chapter.backend,
                environment_key=chapter.environment.key,
                workload=chapter.workload or None,
            ):
                early = run.ended_at is None or trial.created_at <= run.ended_at
                if early and conditions_of(trial).chapter == chapter:
                    known[trial.id] = trial
    return list(known.values())


def fastest(trials: Iterable[StoredTrial]) -> list[StoredTrial]:
    """Those with a time, the fastest first."""
    timed = [trial for trial in trials if trial.time_us is not None]
    return sorted(timed, key=lambda trial: (trial.time_us or 0.0, trial.id))


def equally_fast(timed: Sequence[StoredTrial]) -> int:
    """How many have the fastest's time as it is printed, to 0.01 µs.

    Args:
        timed: see `fastest`.
    """
    return sum(f"{trial.time_us:.2f}" == f"{timed[0].time_us:.2f}" for trial in timed)


def default_of(trials: Iterable[StoredTrial]) -> StoredTrial | None:
    """The trial of the default; None: it was not tried in these."""
    return next((trial for trial in trials if trial.origin == "default"), None)


def failures(trials: Iterable[StoredTrial]) -> list[StoredTrial]:
    """Those without a time."""
    return [trial for trial in trials if trial.status is not Status.OK]
