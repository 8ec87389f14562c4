"""One tuning run: request, searches, finals, winners; or offline a short list by estimate."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from autotune.compile.isa import refusal
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.processes import interrupt
from autotune.protocol.backend import one_config
from autotune.protocol.legality import require_default
from autotune.search.driver import Driver, DriverSettings
from autotune.search.layering import Layering
from autotune.space.config import Config
from autotune.store.records import LayerTrial, RunState, TrialRecord
from autotune.store.store import Store
from autotune.tuning.context import Conclusion, Listener, RunRequest, RunResult, Tuning
from autotune.tuning.fleet import Fleet
from autotune.tuning.searches import make_layer_searches, make_searches, near_problems, resume
from autotune.tuning.sharing import SharedWork
from autotune.tuning.site import Site, open_site

__all__ = ["RunRequest", "RunResult", "run"]


def run(request: RunRequest, store: Store, listener: Listener) -> RunResult:
    """Searches both stages of every problem and decides each problem's layer config.

    Results of earlier runs on the same stack and under the same conditions count towards the budget, so
    the same command resumes an interrupted run.

    Raises:
        UserError: what the backend or target needs is missing.
        KeyboardInterrupt: the user stopped it; the run is marked so, and everything finished is stored.
    """
    with interrupt.held_back(), open_site(request, listener) as site:
        current = _begin(request, store, listener, site)
        state = RunState.FAILED
        try:
            with _shared(current, site):
                site.begin(current)
                complete = _driver(current, site).run()
                conclusion = site.conclude(current)
            state = RunState.FAILED if current.failed else RunState.FINISHED
        except (KeyboardInterrupt, BrokenPipeError):  # the latter: whoever read the progress has left
            state = RunState.INTERRUPTED
            raise
        finally:
            store.end_run(current.id, state)
    return _result(current, complete, conclusion)


def _begin(request: RunRequest, store: Store, listener: Listener, site: Site) -> Tuning:
    """The run with its searches, told of what the store holds already, and recorded as begun."""
    searches = make_searches(request, site.backend, store)
    for (problem, _), search in searches.items():
        require_default(site.backend, problem.layer, search.space)
    interrupt.look()
    current = Tuning(request, store, listener, site.backend, site.environment, 0, searches)
    listener.on_start(searches, resumed=resume(current, site.evaluator.workload))
    if site.layers is not None:
        make_layer_searches(current, site.layers.layer_workload, site.pairs)
    current.id = store.begin_run(
        request.command, _spec(request), request.seed, current.environment, alone=True
    )
    if request.timeout_s is not None:
        current.checks_until = time.monotonic() + request.timeout_s
    return current


def _driver(current: Tuning, site: Site) -> Driver:
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
            gpus=_gpus(site),
        ),
        device=request.target.device,
        pool=site.compiler,
        evaluator=site.evaluator,
        artefact_key=artefact_key,
        record=lambda trial, samples: current.store.record_trial(current.id, trial, samples),
        on_trial=on_trial,
        clock=site.clock,
        one_config=one_config(backend),
        others=current.shared,
        layering=_layering(current, site),
    )


def _layering(current: Tuning, site: Site) -> Layering | None:
    if site.layers is None:
        return None
    request = current.request
    return Layering(
        current.layers,
        pool=site.compiler,
        evaluator=site.layers,
        refuse=lambda c: refusal(c.facts, request.target.device, allow_spills=request.allow_spills),
        record=lambda trial: _recorded(current, trial),
        backend=current.backend.name,
        environment=current.environment,
        workload=site.layers.layer_workload,
        kind=site.evaluator.kind,
        near=near_problems(request.problems),
        gpus=_gpus(site),
    )


def _gpus(site: Site) -> int:
    return len(site.evaluator.gpus) if isinstance(site.evaluator, Fleet) else 1


def _recorded(current: Tuning, trial: LayerTrial) -> None:
    current.store.record_layer(current.id, trial)
    current.listener.on_layer(trial, current.layers[trial.problem])


@contextmanager
def _shared(current: Tuning, site: Site) -> Iterator[None]:
    """Shares the work where other drivers can: on a database server, and on no clock of a recording."""
    if not current.store.shared or current.request.target.kind is Kind.REPLAYED:
        yield
        return
    with SharedWork(current, site.evaluator.workload) as shared:
        current.shared = shared
        yield


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


def stopped_early(current: Tuning) -> list[str]:
    """Why searches ended before their budget, those of one stage and reason in one line."""
    shapes: dict[tuple[Stage, str], list[str]] = {}
    for (problem, stage), search in current.searches.items():
        if search.stopped is not None:
            shapes.setdefault((stage, search.stopped), []).append(problem.shape)
    return [f"{', '.join(which)} {stage}: {reason}" for (stage, reason), which in shapes.items()]


def _result(current: Tuning, complete: bool, conclusion: Conclusion) -> RunResult:
    searches = current.searches.items()
    return RunResult(
        current.id,
        current.environment,
        complete,
        conclusion.winners,
        stopped=stopped_early(current),
        checks=current.checks,
        defaults={(problem.shape, str(stage)): s.space.default for (problem, stage), s in searches},
        settings=conclusion.settings,
        left_out=current.left_out,
        failed=current.failed,
    )
