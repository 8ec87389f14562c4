"""What a report is about: chosen runs, problems with their trials, and what was decided of each."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from autotune.errors import UserError
from autotune.fingerprint import Fingerprint
from autotune.problem import Problem, Stage
from autotune.report.bundle import exported_winners
from autotune.report.finals import Contender, contenders
from autotune.report.limits import ByteLimit, byte_limit
from autotune.report.query import Conditions, conditions_of, grouped, trials_until, winners_of
from autotune.results import Kind, LayerConfig
from autotune.store.records import RunRecord, StoredConfirmation, StoredTrial, WinnerRecord
from autotune.store.store import Store


@dataclass(frozen=True)
class Scope:
    """What to report on: one of the three; none of them: the newest run that tried anything.

    Attributes:
        run: id of a run.
        device: part of a device's name: all runs on it, the latest winner of each problem.
        bundle: folder that `autotune export` wrote.
    """

    run: int | None = None
    device: str | None = None
    bundle: Path | None = None


@dataclass(frozen=True)
class ProblemReport:
    """One problem under one set of conditions.

    Attributes:
        trials: candidates by stage, in the order in which they were first tried.
        rows: every trial behind them, by id: a candidate may have been measured again.
        contenders: the default first; empty where nothing was decided.
        confirmation: None where there was no final, or an estimate decided.
        limit: None: not known for this device or backend.
    """

    conditions: Conditions
    trials: Mapping[Stage, Sequence[StoredTrial]]
    rows: Sequence[StoredTrial]
    winner: WinnerRecord | None
    contenders: Sequence[Contender]
    confirmation: StoredConfirmation | None
    limit: ByteLimit | None

    @property
    def problem(self) -> Problem:
        return self.conditions.problem

    @property
    def tokens_text(self) -> str:
        """How many tokens, in words."""
        return "1 token" if self.problem.tokens == 1 else f"{self.problem.tokens:,} tokens"

    @property
    def ships(self) -> LayerConfig | None:
        """What ships, as the decision names it; None: nothing was decided."""
        return self.winner.default if self.winner is not None else None

    def contender(self, label: str) -> Contender | None:
        """The first one of a label."""
        return next((one for one in self.contenders if one.label == label), None)


@dataclass(frozen=True)
class Report:
    """Everything that a page or a file shows.

    Attributes:
        title: what it is about.
        stacks: every stack that a figure is from; more than one are never compared.
    """

    title: str
    runs: Sequence[RunRecord]
    problems: Sequence[ProblemReport]

    @property
    def stacks(self) -> list[Fingerprint]:
        return list(dict.fromkeys(one.conditions.environment for one in self.problems))

    @property
    def trials(self) -> list[StoredTrial]:
        """Every trial, by id."""
        return sorted((trial for one in self.problems for trial in one.rows), key=lambda trial: trial.id)

    @property
    def candidates(self) -> int:
        """How many configs were tried, each counted once a problem and stage."""
        return sum(len(one.trials[stage]) for one in self.problems for stage in Stage)


def gather(store: Store, scope: Scope) -> Report:
    """Collects a report.

    Raises:
        UserError: there is nothing to report on, or the folder is no bundle of this database.
    """
    if sum(part is not None for part in (scope.run, scope.device, scope.bundle)) > 1:
        raise UserError("--run, --device and --bundle exclude each other: give one of them")
    if scope.bundle is not None:
        winners = exported_winners(store, scope.bundle)
        runs = [store.run(id_) for id_ in sorted({winner.run for winner in winners})]
        title = f"Bundle {scope.bundle.name}"
        return Report(title, runs, _problems(store, runs, winners, only_winners=True))
    if scope.device is not None:
        wanted = scope.device.lower()
        runs = [r for r in store.runs() if r.environment and wanted in r.environment.device.lower()]
        if not runs:
            raise UserError(
                f"no run on a device called {scope.device} in {store.location}:"
                " `autotune history` lists the runs"
            )
        winners = [w for w in store.winners() if wanted in w.environment.device.lower()]
        names = sorted({r.environment.device for r in runs if r.environment})
        return Report(", ".join(names), runs, _problems(store, runs, winners))
    run = _run(store, scope.run)
    report_of = _problems(store, [run], winners_of(store, run.id))
    return Report(f"Run {run.id}: {run.command}", [run], report_of)


def _run(store: Store, wanted: int | None) -> RunRecord:
    """The run with an id, or the newest that tried or decided anything."""
    runs = store.runs()
    if wanted is not None:
        found = next((run for run in runs if run.id == wanted), None)
        if found is None:
            raise UserError(
                f"there is no run {wanted} in {store.location}: `autotune history` lists the runs"
            )
        return found
    for run in reversed(runs):
        if store.trial_counts(run.id) or winners_of(store, run.id):
            return run
    raise UserError(f"{store.location} holds no trials to report on: `autotune run --shape m4` makes some")


def _problems(
    store: Store, runs: Sequence[RunRecord], winners: Sequence[WinnerRecord], *, only_winners: bool = False
) -> list[ProblemReport]:
    trials: dict[int, StoredTrial] = {}
    for run in runs:
        trials.update((trial.id, trial) for trial in trials_until(store, run))
    groups = grouped(trials.values())
    rows: dict[Conditions, list[StoredTrial]] = defaultdict(list)
    for trial in trials.values():
        rows[conditions_of(trial)].append(trial)
    made = []
    for conditions, of_stage in groups.items():
        winner = _winner(conditions, winners)
        if winner is not None or not only_winners:
            made.append(_problem(store, conditions, of_stage, rows[conditions], winner))
    decided = {one.winner.id for one in made if one.winner is not None}
    for winner in winners:
        if winner.id not in decided:  # confirmed again, or merged without its trials
            made.append(
                _problem(store, _conditions(store, winner), {stage: [] for stage in Stage}, [], winner)
            )
    made.sort(key=_order)
    return made


def _winner(conditions: Conditions, winners: Sequence[WinnerRecord]) -> WinnerRecord | None:
    """The winner that came of these conditions, of several the newest."""
    fitting = [
        w
        for w in winners
        if (w.problem, w.backend, w.environment, w.kind)
        == (conditions.problem, conditions.backend, conditions.environment, conditions.kind)
    ]
    return max(fitting, key=lambda w: (w.created_at, w.id), default=None)


def _conditions(store: Store, winner: WinnerRecord) -> Conditions:
    workload = "estimate"
    if winner.confirmation is not None:
        workload = store.confirmation(winner.confirmation).workload
    elif winner.stage1_trial is not None:
        return conditions_of(store.trial(winner.stage1_trial))
    return Conditions(winner.problem, winner.backend, winner.environment, winner.kind, workload)


def _problem(
    store: Store,
    conditions: Conditions,
    trials: Mapping[Stage, Sequence[StoredTrial]],
    rows: Sequence[StoredTrial],
    winner: WinnerRecord | None,
) -> ProblemReport:
    confirmation = None
    if winner is not None and winner.confirmation is not None:
        confirmation = store.confirmation(winner.confirmation)
    return ProblemReport(
        conditions,
        trials,
        rows,
        winner,
        contenders(store, winner) if winner is not None else [],
        confirmation,
        byte_limit(conditions.problem, conditions.backend, conditions.environment.device),
    )


def _order(one: ProblemReport) -> tuple[str, str, str, int, int]:
    conditions = one.conditions
    kinds = {Kind.MEASURED: "0", Kind.REPLAYED: "1", Kind.ESTIMATE: "2"}
    problem = conditions.problem
    stack = f"{conditions.environment.device} {conditions.environment.key}"
    return kinds[conditions.kind], stack, conditions.backend, problem.tokens, problem.verify_tokens


def by_stack(report: Report) -> list[tuple[Fingerprint, list[ProblemReport]]]:
    """Problems by the stack that their figures are from."""
    pairs = groupby(report.problems, key=lambda one: one.conditions.environment)
    return [(stack, list(group)) for stack, group in pairs]
