"""One tuning run: from problems to confirmed winners, or offline to a short list by estimate."""

import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from autotune import interrupt
from autotune.backends import load_backend
from autotune.backends.base import Backend, one_config
from autotune.backends.legality import require_computed, require_default
from autotune.compile.pool import CompilePool
from autotune.config import Config
from autotune.decide import confirm_all, short_list
from autotune.problem import Problem, Stage
from autotune.replay.files import read_table
from autotune.replay.machine import ReplayMachine
from autotune.replay.target import ReplayBackend, ReplayJudge
from autotune.results import Kind
from autotune.search.clock import Clock
from autotune.search.driver import Driver, DriverSettings
from autotune.search.evaluate import Compiler, Estimator, Evaluator
from autotune.search.live import LiveJudge
from autotune.search_setup import make_searches, resume
from autotune.shared import guard_problems, time_settings
from autotune.store.records import RunState, TrialRecord
from autotune.store.store import Store
from autotune.targets import offline_fingerprint
from autotune.tuning import Judge, Listener, RunRequest, RunResult, Tuning

__all__ = ["RunRequest", "RunResult", "run"]


def run(request: RunRequest, store: Store, listener: Listener) -> RunResult:
    """Searches both stages of every problem and decides each problem's layer config.

    Results of earlier runs on the same stack and under the same conditions count towards the budget, so
    the same command resumes an interrupted run.

    Raises:
        UserError: what the backend or target needs is missing.
        KeyboardInterrupt: the user stopped it; the run is marked so, and everything finished is stored.
    """
    backend = load_backend(request.backend)
    if request.target.table is None:  # a replay computes nothing
        for problem in request.problems:
            require_computed(backend, request.backend, problem.layer)
    judge: Judge | None = None
    evaluator: Evaluator
    pool: Compiler
    machine: ReplayMachine | None = None
    with interrupt.held_back(), ExitStack() as stack:
        if request.target.table is not None:
            table = read_table(request.target.table)
            backend, judge = ReplayBackend(backend, table), ReplayJudge(table, request.measuring)
            pool = evaluator = machine = ReplayMachine(table, compile_processes=request.workers)
        else:
            pool = stack.enter_context(
                CompilePool(
                    backend.name,
                    request.target.device,
                    workers=request.workers,
                    time_limit_s=request.compile_timeout_s,
                )
            )
            if request.target.live:
                # While the measure worker starts, what is tried first is compiled and the searches are made:
                # each takes several seconds.
                problems = [*request.problems, *guard_problems(request, backend)]
                live = LiveJudge(backend, problems, request.measuring, listener.on_wait)
                judge = evaluator = stack.enter_context(live)
                _compile_defaults(request, backend, pool)
            else:
                evaluator = Estimator(backend, request.target.device)
        searches = make_searches(request, backend, store)
        for (problem, _), search in searches.items():
            require_default(backend, problem.layer, search.space)
        interrupt.look()
        environment = (
            judge.fingerprint
            if judge is not None
            else offline_fingerprint(
                request.target, backend=backend.name, kernel_source=backend.source_digest()
            )
        )
        current = Tuning(request, store, listener, backend, environment, 0, searches)
        listener.on_start(searches, resumed=resume(current, evaluator.workload))
        current.id = store.begin_run(request.command, _spec(request), request.seed, environment)
        state = RunState.FAILED
        if request.timeout_s is not None:
            current.checks_until = time.monotonic() + request.timeout_s
        try:
            complete = _driver(current, pool, evaluator, machine).run()
            if isinstance(pool, CompilePool):
                pool.close()  # what it still compiles is not waited for, nor to disturb what follows
            best = short_list(current) if judge is None else confirm_all(current, judge)
            settings = [] if judge is None else time_settings(current, judge, best)
            state = RunState.FINISHED
        except (KeyboardInterrupt, BrokenPipeError):  # the latter: whoever read the progress has left
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
    return RunResult(
        current.id, environment, complete, best, stopped, current.checks, defaults, settings, current.left_out
    )


def _compile_defaults(request: RunRequest, backend: Backend, pool: Compiler) -> None:
    """Starts the compiles of the default; the searches will ask for them and find them under way."""
    for problem in request.problems:
        layer, tokens = problem.layer, problem.tokens
        for stage in Stage:
            space = backend.space(layer, tokens, stage, request.target.device)
            pool.submit(layer, tokens, stage, space.default)


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
            timeout_s=_search_s(request),
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


def _search_s(request: RunRequest) -> float | None:
    """Seconds for searching: offline a quarter of the time, or as much as they may take, is the checks'."""
    if request.timeout_s is None or request.target.kind is not Kind.ESTIMATE:
        return request.timeout_s
    return request.timeout_s - min(request.check_timeout_s, request.timeout_s / 4)


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
