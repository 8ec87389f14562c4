"""One tuning run: from problems to confirmed winners, or offline to a short list by estimate."""

from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from autotune.backends import load_backend
from autotune.backends.base import one_config
from autotune.compile.pool import CompilePool
from autotune.config import Config
from autotune.decide import confirm_all, short_list
from autotune.problem import Layer, Problem, Stage
from autotune.replay.files import read_table
from autotune.replay.machine import ReplayMachine
from autotune.replay.target import ReplayBackend, ReplayJudge
from autotune.results import Kind
from autotune.search.clock import Clock
from autotune.search.driver import Driver, DriverSettings
from autotune.search.evaluate import Compiler, Estimator, Evaluator
from autotune.search.joint import JointModel
from autotune.search.live import LiveJudge
from autotune.search.resume import known_results
from autotune.search.study import Ask, StageSearch
from autotune.shared import guard_problems, time_settings
from autotune.store.records import RunState, TrialRecord
from autotune.store.store import Store
from autotune.targets import offline_fingerprint
from autotune.tuning import Judge, Listener, RunRequest, RunResult, Tuning

__all__ = ["RunRequest", "RunResult", "run"]

_OWED = 8
"""So many of each stage's best in the store are tried at the other stage, where a layer has one config."""


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
            problems = [*request.problems, *guard_problems(request, backend)]
            judge = live = stack.enter_context(LiveJudge(backend, problems, request.measuring))
            environment = live.fingerprint
            evaluator = live
        else:
            evaluator = Estimator(backend, request.target.device)
            environment = offline_fingerprint(
                request.target, backend=backend.name, kernel_source=backend.source_digest()
            )
        current = Tuning(request, store, listener, backend, environment, 0)
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
            best = short_list(current) if judge is None else confirm_all(current, judge)
            settings = [] if judge is None else time_settings(current, judge, best)
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
    return RunResult(current.id, environment, complete, best, stopped, current.checks, defaults, settings)


def _make_searches(current: Tuning, workload: str) -> None:
    """A search a stage and problem, told of everything comparable that the store holds."""
    request, resumed = current.request, 0
    # A stage's searches learn from each other: a model of its own a layer and stage.
    models: dict[tuple[Layer, Stage], JointModel] = {}
    for index, problem in enumerate(request.problems):
        for stage in Stage:
            space = current.space(problem, stage)
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
    if one_config(current.backend):
        _queue_what_one_stage_lacks(current)
    current.listener.on_start(current.searches, resumed=resumed)


def _queue_what_one_stage_lacks(current: Tuning) -> None:
    """Each stage's best, as the store has them, go to the other one: only both figures make a layer's."""
    for (problem, stage), search in current.searches.items():
        other = current.searches[problem, Stage.STAGE1 if stage is Stage.STAGE2 else Stage.STAGE2]
        for config, _ in search.results[:_OWED]:
            other.queue(Ask(config, "shared"))


def _seeds(current: Tuning, problem: Problem, stage: Stage) -> list[Ask]:
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


def _driver(current: Tuning, pool: Compiler, evaluator: Evaluator, clock: Clock | None) -> Driver:
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
        one_config=one_config(backend),
    )


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
