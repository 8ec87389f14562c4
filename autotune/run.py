"""One tuning run: from problems to confirmed winners, or offline to a short list by estimate."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from autotune.backends import load_backend
from autotune.backends.base import Backend
from autotune.check.check import can_check
from autotune.check.judged import Checks, Judged
from autotune.check.refine import refine
from autotune.check.short_list import Sifter
from autotune.compile.pool import CompilePool
from autotune.config import Config
from autotune.fingerprint import Fingerprint
from autotune.measure.settings import MeasureSettings
from autotune.problem import Layer, Problem, Stage
from autotune.replay.files import read_table
from autotune.replay.machine import ReplayMachine
from autotune.replay.target import ReplayBackend, ReplayJudge
from autotune.results import Confirmation, Failure, Finalist, Kind, LayerConfig, Measurement, Status
from autotune.search.choose import Ranked, finalists, pairs
from autotune.search.clock import Clock
from autotune.search.driver import Driver, DriverSettings, Task
from autotune.search.evaluate import Compiler, Estimator, Evaluator
from autotune.search.joint import JointModel
from autotune.search.live import LiveJudge
from autotune.search.race import settle, window_of
from autotune.search.resume import known_results
from autotune.search.study import Ask, StageSearch
from autotune.store.records import RunState, ShortListed, StoredTrial, TrialRecord, WinnerRecord
from autotune.store.store import Store
from autotune.targets import Target, offline_fingerprint

SHORT_LIST = 8
FINALISTS = 8


@dataclass(frozen=True)
class RunRequest:
    """What to tune, where, and with which effort.

    Attributes:
        trials: configs a stage of each problem; a space that fits is swept whole.
        timeout_s: stop asking after this time; None: never.
        workers: compile processes.
        measuring: conditions and limits on a live target.
        check_timeout_s: offline, checks of the short lists' machine code are given up after so long.
        stop_when: a search ends when less gain than this fraction is to be expected; None: at its budget.
        command: the command line, for the record.
    """

    backend: str
    problems: Sequence[Problem]
    target: Target
    trials: int
    seed: int
    sampler: str
    workers: int
    timeout_s: float | None = None
    compile_timeout_s: float = 60.0
    allow_spills: bool = False
    measuring: MeasureSettings = MeasureSettings()  # noqa: RUF009 frozen
    stop_when: float | None = None
    check_timeout_s: float = 90.0
    command: str = ""


@dataclass(frozen=True)
class RunResult:
    """What a run found.

    Attributes:
        complete: every search used its budget.
        best: the winner of each problem, or offline the best of its short list.
        stopped: why searches ended before their budget, and what they left untried; a sentence each.
        defaults: what ships, by shape and stage.
        checks: offline, verdicts on the machine code of short-listed configs and of what ships.
    """

    run: int
    environment: Fingerprint
    complete: bool
    best: Sequence[WinnerRecord]
    stopped: Sequence[str] = ()
    checks: Sequence[Judged] = ()
    defaults: Mapping[tuple[str, str], Config] = field(default_factory=dict)


class Listener(Protocol):
    """Is told how a run goes, for a progress display."""

    def on_start(self, tasks: dict[Task, StageSearch], *, resumed: int) -> None:
        """The searches begin; `resumed` trials were in the store already."""

    def on_trial(self, trial: TrialRecord, search: StageSearch) -> None:
        """A trial is stored and told."""

    def on_check(self, problem: Problem) -> None:
        """The machine code of a problem's short list is about to be executed."""

    def on_confirm(self, problem: Problem, contenders: int) -> None:
        """The final of a problem begins."""

    def on_no_winner(self, problem: Problem, reason: str) -> None:
        """A problem ends without a winner."""


class Judge(Protocol):
    """Decides between finalists."""

    @property
    def kind(self) -> Kind:
        """What its figures are."""

    @property
    def workload(self) -> str:
        """Text of the conditions."""

    def again(self, problem: Problem, stage: Stage, config: Config) -> Measurement | Failure | None:
        """One more window of a config; None: there is nothing new to learn."""

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        """Paired rounds; the default is the first finalist."""


@dataclass
class _Run:
    """A run under way."""

    request: RunRequest
    store: Store
    listener: Listener
    backend: Backend
    environment: Fingerprint
    id: int
    searches: dict[Task, StageSearch] = field(default_factory=dict)
    checks: list[Judged] = field(default_factory=list)


def run(request: RunRequest, store: Store, listener: Listener) -> RunResult:
    """Searches both stages of every problem and decides each problem's layer config.

    Results of earlier runs on the same stack and under the same conditions count towards the budget, so
    the same command resumes an interrupted run.

    Raises:
        UserError: what the backend or target needs is missing.
        KeyboardInterrupt: the user stopped it; the run is marked so, and everything finished is stored.
    """
    backend = load_backend(request.backend)
    judge: Judge | None = None
    evaluator: Evaluator
    machine: ReplayMachine | None = None
    with ExitStack() as stack:
        if request.target.table is not None:
            table = read_table(request.target.table)
            backend, judge = ReplayBackend(backend, table), ReplayJudge(table, request.measuring)
            environment = judge.fingerprint
            evaluator = machine = ReplayMachine(table, compile_processes=request.workers)
        elif request.target.live:
            judge = live = stack.enter_context(LiveJudge(backend, request.problems, request.measuring))
            environment = live.fingerprint
            evaluator = live
        else:
            evaluator = Estimator(backend, request.target.device)
            environment = offline_fingerprint(
                request.target, backend=backend.name, kernel_source=backend.source_digest()
            )
        current = _Run(request, store, listener, backend, environment, 0)
        _make_searches(current, evaluator.workload)
        pool: Compiler = machine or stack.enter_context(
            CompilePool(
                backend.name,
                request.target.device,
                workers=request.workers,
                time_limit_s=request.compile_timeout_s,
            )
        )
        current.id = store.begin_run(request.command, _spec(request), request.seed, environment)
        state = RunState.FAILED
        try:
            complete = _driver(current, pool, evaluator, machine).run()
            best = _short_list(current) if judge is None else _confirm(current, judge)
            state = RunState.FINISHED
        except KeyboardInterrupt:
            state = RunState.INTERRUPTED
            raise
        finally:
            store.end_run(current.id, state)
    stopped = [
        f"{problem.shape} {stage}: {search.stopped}"
        for (problem, stage), search in current.searches.items()
        if search.stopped
    ]
    defaults = {
        (problem.shape, str(stage)): search.space.default
        for (problem, stage), search in current.searches.items()
    }
    return RunResult(current.id, environment, complete, best, stopped, current.checks, defaults)


def _make_searches(current: _Run, workload: str) -> None:
    """A search a stage and problem, told of everything comparable that the store holds."""
    request, resumed = current.request, 0
    # A stage's searches learn from each other: a model of its own a layer and stage.
    models: dict[tuple[Layer, Stage], JointModel] = {}
    samples: dict[tuple[Layer, Stage], Config] = {}
    for index, problem in enumerate(request.problems):
        for stage in Stage:
            device = request.target.device
            space = current.backend.space(problem.layer, problem.tokens, stage, device)
            # Whether two problems share binaries shows in one config's keys at both.
            sample = samples.setdefault((problem.layer, stage), space.default)
            model = models.setdefault((problem.layer, stage), JointModel(request.seed * 1000 + len(models)))
            search = StageSearch(
                space,
                sampler=request.sampler,
                # Unlike streams for unlike tasks, equal ones for equal commands.
                seed=request.seed * 1000 + 2 * index + (stage is Stage.STAGE2),
                budget=request.trials,
                seeds=_seeds(current, problem, stage),
                stop_when=request.stop_when,
                model=model,
                tokens=problem.tokens,
                binary=current.backend.artefact_key(problem.layer, problem.tokens, stage, sample),
            )
            stored = current.store.trials(
                problem=problem,
                stage=stage,
                backend=current.backend.name,
                environment_key=current.environment.key,
                workload=workload,
                space_digest=space.space.digest,
            )
            for config, us in known_results(stored, allow_spills=request.allow_spills).items():
                search.observe(config, us)
                resumed += 1
            current.searches[problem, stage] = search
    current.listener.on_start(current.searches, resumed=resumed)


def _seeds(current: _Run, problem: Problem, stage: Stage) -> list[Ask]:
    """Published configs, then earlier winners at near shapes."""
    published = current.backend.seeds(problem.layer, problem.tokens, stage, current.request.target.device)
    earlier = [
        entry
        for winner in current.store.nearby_winners(problem, current.backend.name)
        # Of an estimate's short list every entry is worth a look, of a final only its winner.
        for entry in (current.store.short_list(winner) if winner.kind is Kind.ESTIMATE else [winner])
    ]
    return [
        *(Ask(config, label) for label, config in published.items()),
        *(Ask(entry.config.of(stage), "earlier") for entry in earlier),
    ]


def _driver(current: _Run, pool: Compiler, evaluator: Evaluator, clock: Clock | None) -> Driver:
    request, backend = current.request, current.backend

    def artefact_key(problem: Problem, stage: Stage, config: Config) -> str:
        return backend.artefact_key(problem.layer, problem.tokens, stage, config)

    def on_trial(trial: TrialRecord) -> None:
        current.listener.on_trial(trial, current.searches[trial.problem, trial.stage])

    return Driver(
        current.searches,
        settings=DriverSettings(
            backend=backend.name,
            environment=current.environment,
            allow_spills=request.allow_spills,
            timeout_s=request.timeout_s,
            compile_ahead=2 * request.workers,
        ),
        device=request.target.device,
        pool=pool,
        evaluator=evaluator,
        artefact_key=artefact_key,
        record=lambda trial, samples: current.store.record_trial(current.id, trial, samples),
        on_trial=on_trial,
        clock=clock,
    )


def _confirm(current: _Run, judge: Judge) -> list[WinnerRecord]:
    """The final of each problem: paired rounds on fresh routings, stored with what they chose."""
    store, backend = current.store, current.backend.name
    made = []
    for problem in current.request.problems:
        one, two = (_settle(current, judge, problem, stage) for stage in Stage)
        contenders = finalists(
            one,
            two,
            default=_default(current, problem),
            published=_published(current, problem),
            most=FINALISTS,
            coupled=_coupled(current, problem),
        )
        current.listener.on_confirm(problem, len(contenders))
        confirmation = judge.confirm(problem, contenders)
        stored = store.record_confirmation(
            current.id,
            confirmation,
            backend=backend,
            environment=current.environment,
            workload=judge.workload,
            kind=judge.kind,
        )
        if judge.kind is Kind.MEASURED and not current.request.measuring.decides:
            hot = "weights were hot, and serving finds them cold: run without --cold to decide"
            current.listener.on_no_winner(problem, hot)
            continue
        try:
            made.append(store.record_winner(current.id, stored))
        except ValueError as error:
            # The choice failed the numeric gate somewhere: this problem has no winner, the others may.
            current.listener.on_no_winner(problem, str(error))
    return _winners(current, judge.kind, made)


def _coupled(current: _Run, problem: Problem) -> frozenset[str]:
    """Knobs of either stage whose effect reaches beyond it."""
    spaces = (current.searches[problem, stage].space for stage in Stage)
    return frozenset(param.name for space in spaces for param in space.params if param.coupled)


def _settle(current: _Run, judge: Judge, problem: Problem, stage: Stage) -> Ranked:
    """The stage's configs in settled order; every further window is stored as a trial of its own."""
    store, search = current.store, current.searches[problem, stage]

    def again(config: Config) -> Measurement | Failure | None:
        return judge.again(problem, stage, config)

    stored: dict[Config, StoredTrial] = {}
    for trial in store.trials(
        problem=problem,
        stage=stage,
        backend=current.backend.name,
        environment_key=current.environment.key,
        workload=judge.workload,
    ):
        if trial.status is Status.OK:
            stored.setdefault(trial.config, trial)
    settled = settle(search.results, again, lambda config: stored[config].binary_hash or config.key)
    for config, outcome in settled.windows:
        samples = outcome.samples if isinstance(outcome, Measurement) else ()
        store.record_trial(current.id, window_of(stored[config], outcome), samples)
    return settled.ranking


def _short_list(current: _Run) -> list[WinnerRecord]:
    """Ranks layer configs by the sum of their stages' estimates and stores the best that are right."""
    made = []
    with ExitStack() as stack:
        sifter = _sifter(current, stack)
        for problem in current.request.problems:
            made += _list_one(current, problem, sifter)
        if sifter is not None:
            current.checks += sifter.judged.values()
    return _winners(current, Kind.ESTIMATE, made)


def _sifter(current: _Run, stack: ExitStack) -> Sifter | None:
    """Executes machine code; None: this backend's or device's cannot be."""
    request, backend = current.request, current.backend.name
    device = request.target.device
    if not can_check(backend, device):
        return None
    checks = Checks(
        backend, device, workers=request.workers, store=current.store, budget_s=request.check_timeout_s
    )
    return Sifter(stack.enter_context(checks), current.store, backend, current.environment.key)


def _list_one(current: _Run, problem: Problem, sifter: Sifter | None) -> list[int]:
    """Stores the short list of a problem; returns its entries' ids."""
    one, two = (current.searches[problem, stage].results for stage in Stage)
    default = _default(current, problem)
    times = dict(pairs(one, two))
    if default not in times:
        reason = "what ships has no estimate here, so there is nothing to compare with"
        current.listener.on_no_winner(problem, reason)
        return []
    if sifter is None:
        listed = list(dict.fromkeys([*list(times)[:SHORT_LIST], default]))
    else:
        current.listener.on_check(problem)
        listed = sifter.sift(problem, list(times), default, SHORT_LIST)
        if default in listed:
            by_execution = refine(
                current.store,
                current.id,
                current.backend,
                current.request.target.device,
                current.environment.key,
                problem,
                listed,
                sifter.judged,
            )
            if by_execution is not None:
                times, listed = by_execution, list(by_execution)
    if default not in listed:
        current.listener.on_no_winner(problem, "what ships is wrong: see the checks of its machine code")
    return current.store.record_short_list(
        current.id,
        problem=problem,
        backend=current.backend.name,
        environment=current.environment,
        default=default,
        entries=[ShortListed(config, 1 - times[config] / times[default]) for config in listed],
    )


def _winners(current: _Run, kind: Kind, made: Sequence[int]) -> list[WinnerRecord]:
    """The best of each problem among the winners that this run made."""
    stored = current.store.winners(
        backend=current.backend.name, environment_key=current.environment.key, kind=kind
    )
    return [winner for winner in stored if winner.id in made]


def _default(current: _Run, problem: Problem) -> LayerConfig:
    one, two = (current.searches[problem, stage].space.default for stage in Stage)
    return LayerConfig(one, two)


def _published(current: _Run, problem: Problem) -> LayerConfig | None:
    device = current.request.target.device
    one, two = (
        current.backend.seeds(problem.layer, problem.tokens, stage, device).get("published")
        for stage in Stage
    )
    return LayerConfig(one, two) if one is not None and two is not None else None


def _spec(request: RunRequest) -> dict[str, Any]:
    """The request as JSON values."""
    spec = {
        name: value
        for name, value in asdict(request).items()
        if name not in ("problems", "target", "command", "seed")
    }
    return {
        **spec,
        "target": request.target.name,
        "problems": [problem.key for problem in request.problems],
    }
