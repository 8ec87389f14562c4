"""Gathers a report's content: the chosen runs, problems with their trials, and each decision."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.report.bundle import exported_winners
from autotune.report.finals import Contender, WinnerFinal, final_of
from autotune.report.limits import ByteLimit, byte_limit
from autotune.report.query import (
    Conditions,
    conditions_of,
    conditions_of_winner,
    grouped,
    trials_until,
    winners_of,
)
from autotune.report.why import NotInFinal, left_of
from autotune.report.wording import AS_EXECUTED, Wording, wording
from autotune.results import LayerConfig
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
        executed: of an estimate, what was estimated again by execution; `trials` are as compiled.
        basis: of an estimate, what the contenders' times go by, see `autotune.report.wording.ESTIMATES`.
        left: of each stage's fastest those that no finalist has, with why.
        ties: contenders that are as fast as the chosen one, as far as can be told; see `finals.tied`.
    """

    conditions: Conditions
    trials: Mapping[Stage, Sequence[StoredTrial]]
    rows: Sequence[StoredTrial]
    winner: WinnerRecord | None
    contenders: Sequence[Contender]
    confirmation: StoredConfirmation | None
    limit: ByteLimit | None
    executed: Mapping[Stage, Sequence[StoredTrial]] = field(default_factory=dict)
    basis: str = ""
    ties: Sequence[Contender] = ()
    left: Sequence[NotInFinal] = ()

    @property
    def problem(self) -> Problem:
        """The problem of its conditions."""
        return self.conditions.problem

    @property
    def words(self) -> Wording:
        """How results of this kind are spoken of."""
        return wording(self.conditions.kind)

    @property
    def ships(self) -> LayerConfig | None:
        """The default, as the decision names it; None: nothing was decided."""
        return self.winner.default if self.winner is not None else None

    def contender(self, label: str) -> Contender | None:
        """The first one of a label."""
        return next((each for each in self.contenders if each.label == label), None)

    def compiled_us(self, config: LayerConfig) -> dict[str, float]:
        """An estimate's microseconds as compiled, by stage and for both; a stage that was not tried lacks."""
        us = {
            str(stage): trial.time_us
            for stage in Stage
            for trial in self.trials[stage]
            if trial.config == config.of(stage) and trial.time_us is not None
        }
        return {"layer": sum(us.values()), **us} if len(us) == len(Stage) else us


@dataclass(frozen=True)
class Report:
    """Everything that a page or a file shows.

    Attributes:
        title: what it is about.
        stacks: every stack that a time is from; more than one are never compared.
    """

    title: str
    runs: Sequence[RunRecord]
    problems: Sequence[ProblemReport]

    @property
    def stacks(self) -> list[Fingerprint]:
        """The stacks of its chapters, each once, in order."""
        return list(dict.fromkeys(chapter.conditions.environment for chapter in self.problems))

    @property
    def trials(self) -> list[StoredTrial]:
        """Every trial, by id."""
        return sorted(
            (trial for chapter in self.problems for trial in chapter.rows), key=lambda trial: trial.id
        )

    @property
    def candidates(self) -> int:
        """How many configs were tried, each counted once a problem and stage."""
        return sum(len(chapter.trials[stage]) for chapter in self.problems for stage in Stage)


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
        title = f"Bundle {scope.bundle.resolve().name}"
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
    problems = _problems(store, [run], winners_of(store, run.id))
    return Report(f"Run {run.id}: {_subject(problems)}", [run], problems)


def _subject(problems: Sequence[ProblemReport]) -> str:
    """What a run was about; its command, which may name files, stands among the runs."""

    def told(texts: Iterable[str]) -> str:
        return ", ".join(dict.fromkeys(texts))

    shapes = list(dict.fromkeys(chapter.problem.shape for chapter in problems))
    shown = told(shapes) if len(shapes) <= 3 else f"{shapes[0]} to {shapes[-1]}"
    model = told(Path(chapter.problem.layer.model).name for chapter in problems)
    return f"{model} {shown} on {told(chapter.conditions.environment.device for chapter in problems)}"


def _run(store: Store, wanted: int | None) -> RunRecord:
    """The run with an id, or the newest that tried or decided anything."""
    runs = store.runs()
    if wanted is not None:
        run_wanted = next((run for run in runs if run.id == wanted), None)
        if run_wanted is None:
            raise UserError(
                f"there is no run {wanted} in {store.location}: `autotune history` lists the runs"
            )
        return run_wanted
    for run in reversed(runs):
        if store.trial_counts(run.id) or winners_of(store, run.id):
            return run
    raise UserError(f"{store.location} holds no trials to report on: `autotune run --shape m4` makes some")


def _problems(
    store: Store, runs: Sequence[RunRecord], winners: Sequence[WinnerRecord], *, only_winners: bool = False
) -> list[ProblemReport]:
    """A chapter for each problem, whatever was tried, estimated or decided of it first."""
    trials: dict[int, StoredTrial] = {}
    for run in runs:
        trials.update((trial.id, trial) for trial in trials_until(store, run))
    decided: dict[Conditions, WinnerRecord] = {}
    for winner in sorted(winners, key=lambda winner: (winner.created_at, winner.id)):
        decided[conditions_of_winner(store, winner).chapter] = winner  # of several the newest
    groups: dict[Conditions, dict[Conditions, dict[Stage, list[StoredTrial]]]] = defaultdict(dict)
    for conditions, stages in grouped(trials.values()).items():
        groups[conditions.chapter][conditions] = stages
    rows: dict[Conditions, list[StoredTrial]] = defaultdict(list)
    for trial in trials.values():
        rows[conditions_of(trial).chapter].append(trial)
    chapters = list(decided) if only_winners else list(dict.fromkeys([*groups, *decided]))
    reports = [
        _problem(store, chapter, groups.get(chapter, {}), rows[chapter], decided.get(chapter))
        for chapter in chapters
    ]
    return sorted(reports, key=_order)


def _problem(
    store: Store,
    chapter: Conditions,
    groups: Mapping[Conditions, Mapping[Stage, Sequence[StoredTrial]]],
    rows: Sequence[StoredTrial],
    winner: WinnerRecord | None,
) -> ProblemReport:
    none: Mapping[Stage, Sequence[StoredTrial]] = {stage: [] for stage in Stage}
    executed = next((stages for group, stages in groups.items() if group.basis == AS_EXECUTED), none)
    searched = [(group, stages) for group, stages in groups.items() if group.basis != AS_EXECUTED]
    # Another formula was another search: the newest counts.
    searched.sort(key=lambda pair: max(trial.id for trials in pair[1].values() for trial in trials))
    conditions, trials = searched[-1] if searched else (next(iter(groups), None), none)
    final = WinnerFinal() if winner is None else final_of(store, winner)
    if winner is not None:
        conditions = conditions or conditions_of_winner(store, winner)
    return ProblemReport(
        conditions or chapter,
        trials,
        rows,
        winner,
        final.contenders,
        final.confirmation,
        byte_limit(chapter.problem, chapter.backend, chapter.environment.device),
        executed=executed,
        basis=conditions_of_winner(store, winner).basis if winner is not None else "",
        ties=final.ties,
        left=left_of(store, final.confirmation) if final.confirmation is not None else (),
    )


def _order(chapter: ProblemReport) -> tuple[str, str, str, int, int]:
    conditions = chapter.conditions
    kinds = {Kind.MEASURED: "0", Kind.REPLAYED: "1", Kind.ESTIMATE: "2"}
    problem = conditions.problem
    stack = f"{conditions.environment.device} {conditions.environment.key}"
    return kinds[conditions.kind], stack, conditions.backend, problem.tokens, problem.verify_tokens


def by_stack(report: Report) -> list[tuple[Fingerprint, list[ProblemReport]]]:
    """Problems by the stack that their times are from."""
    pairs = groupby(report.problems, key=lambda chapter: chapter.conditions.environment)
    return [(stack, list(group)) for stack, group in pairs]
