"""A run's searches, one a stage and problem: what they begin with."""

from collections.abc import Collection, Sequence
from functools import partial

from autotune.machine.targets import Kind
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.backend import Backend, one_config
from autotune.results import LayerConfig, LayerMeasurement, Status
from autotune.search.driver import Task
from autotune.search.joint import JointModel
from autotune.search.layers import LayerAsk, LayerSearch
from autotune.search.recorded import recorded
from autotune.search.resume import known_results
from autotune.search.study import EARLIER, Ask, StageSearch
from autotune.space.config import Config
from autotune.space.restrict import narrowed, parse_restriction
from autotune.space.space import BoundSpace
from autotune.store.records import LayerTrial
from autotune.store.store import Store
from autotune.tuning.context import RunRequest, Tuning
from autotune.tuning.subjects import Resolver

_LAYERS_A_TRIAL = 2
"""A layer whose stages are compiled costs half of what a stage's trial does."""
_REQUIRED = 8
"""So many of each stage's best in the store are tried at the other stage, where a layer has one config."""


def make_searches(request: RunRequest, backend: Backend, store: Store) -> dict[Task, StageSearch]:
    """The searches, with configs to try first: those asked for, published ones and earlier winners.

    Raises:
        UserError: a restriction names no knob or value, or leaves nothing; a config to try is not legal.
    """
    searches: dict[Task, StageSearch] = {}
    # A stage's searches learn from each other: a model of its own a layer and stage.
    models: dict[tuple[Layer, Stage], JointModel] = {}
    for index, problem in enumerate(request.problems):
        spaces = searched_spaces(request, backend, problem)
        asked = asked_configs(request, backend, store, problem)
        for stage in Stage:
            if (problem.layer, stage) not in models:
                # A replay that knew its own table would show nothing.
                own = [problem.layer.key] if request.target.kind is Kind.REPLAYED else []
                tables = recorded(backend.name, request.target.device.arch, stage, leaving=own)
                models[problem.layer, stage] = JointModel(_stream(request.seed, len(models)), tables)
            searches[problem, stage] = StageSearch(
                spaces[stage],
                sampler=request.sampler,
                # Unlike streams for unlike tasks, equal ones for equal commands.
                seed=_stream(request.seed, 2 * index + (stage is Stage.STAGE2)),
                # What was asked for is tried, whatever the budget.
                budget=max(request.trials, 1 + len(asked[stage])),
                seeds=[*asked[stage], *_seeds(request, backend, store, problem, stage)],
                stop_when=request.stop_when,
                model=models[problem.layer, stage],
                tokens=problem.tokens,
            )
    for model in models.values():
        model.prepare()
    return searches


def _stream(seed: int, number: int) -> int:
    """The seed of one of a run's random streams, 32 bits, which is what numpy takes."""
    return (seed * 1000 + number) % 2**32


def searched_spaces(request: RunRequest, backend: Backend, problem: Problem) -> dict[Stage, BoundSpace]:
    """What a run searches at a problem: its spaces, or the part of them that was asked for.

    Raises:
        UserError: a restriction names no knob or value of these, or leaves nothing.
    """
    spaces = {
        stage: backend.space(problem.layer, problem.tokens, stage, request.target.device) for stage in Stage
    }
    restrictions = [parse_restriction(text) for text in request.knobs]
    return narrowed(spaces, restrictions, problem.shape, one_config=one_config(backend))


def asked_configs(
    request: RunRequest, backend: Backend, store: Store | None, problem: Problem
) -> dict[Stage, list[Ask]]:
    """The configs that the user wants tried, by stage.

    Raises:
        UserError: one is not legal.
    """
    resolver = Resolver(backend, request.target.device, store)
    asked: dict[Stage, list[Ask]] = {stage: [] for stage in Stage}
    for text in request.tries:
        named = resolver.resolve(text, problem)
        for stage in Stage if named.stage is None else (named.stage,):
            config = named.subject.of(stage) if isinstance(named.subject, LayerConfig) else named.subject
            asked[stage].append(Ask(config, "asked"))
    return asked


def resume(current: Tuning, workload: str) -> int:
    """Tells the searches of everything comparable that the store holds; how many results."""
    resumed = 0
    for (problem, stage), search in current.searches.items():
        digest = search.space.space.digest
        stored = current.trials(problem, stage, workload=workload, space_digest=digest)
        for config, us in known_results(stored, allow_spills=current.request.allow_spills).items():
            if config.keys() == search.space.default.keys():  # whatever else was written into the file
                resumed += search.observe(config, us)
    if one_config(current.backend):
        _queue_what_one_stage_lacks(current.searches)
    return resumed


def _queue_what_one_stage_lacks(searches: dict[Task, StageSearch]) -> None:
    """Each stage's best, as the store has them, go to the other one: only both times make a layer's."""
    for (problem, stage), search in searches.items():
        other = searches[problem, Stage.STAGE1 if stage is Stage.STAGE2 else Stage.STAGE2]
        for config, _ in search.results[:_REQUIRED]:
            other.queue(Ask(config, "shared"))


def make_layer_searches(current: Tuning, workload: str, within: Collection[LayerConfig] | None) -> None:
    """The search of each problem's layer, with what the store holds already.

    Args:
        within: the only pairs that can be timed; None: all.
    """
    request, backend, store = current.request, current.backend, current.store
    for index, problem in enumerate(request.problems):
        default = current.default(problem)
        earlier = store.nearby_winners(problem, backend.name)
        current.layers[problem] = search = LayerSearch(
            default,
            {stage: current.searches[problem, stage] for stage in Stage},
            budget=_LAYERS_A_TRIAL * (request.trials - 1),  # the default is the first trial, and no layer
            seed=_stream(request.seed, 500 + index),
            allowed=partial(_same_process, backend, default),
            within=within,
            first=[LayerAsk(winner.config, EARLIER) for winner in earlier],
            one_config=one_config(backend),
        )
        current.layer_workload = workload
        observe_layers(current, problem, search)


def layers_of(current: Tuning, problem: Problem, search: LayerSearch) -> list[LayerTrial]:
    """Layers that the store holds under the run's conditions."""
    return current.store.layers(
        problem=problem,
        backend=current.backend.name,
        environment_key=current.environment.key,
        workload=current.layer_workload,
        default=search.default,
    )


def observe_layers(current: Tuning, problem: Problem, search: LayerSearch) -> None:
    """Tells a search of the layers that the store holds under the run's conditions."""
    for trial in layers_of(current, problem, search):
        if isinstance(trial.outcome, LayerMeasurement):
            search.observe(trial.config, trial.outcome.ratio)
        elif trial.outcome.status is Status.INCORRECT:
            search.observe(trial.config, None)


def near_problems(problems: Sequence[Problem]) -> dict[Problem, list[Problem]]:
    """Problems whose layers are told each other: of one layer and routing, two token counts apart at most."""
    by_tokens = sorted(problems, key=lambda problem: problem.tokens)

    def near(a: Problem, b: Problem) -> bool:
        return a != b and (a.layer, a.routing) == (b.layer, b.routing)

    return {
        problem: [other for other in by_tokens[max(0, n - 2) : n + 3] if near(problem, other)]
        for n, problem in enumerate(by_tokens)
    }


def _same_process(backend: Backend, default: LayerConfig, pair: LayerConfig) -> bool:
    """Whether a pair and the default can be timed in one process."""
    environments = [dict(backend.environment(c)) for c in (*_stages(pair), *_stages(default))]
    return all(environment == environments[0] for environment in environments)


def _stages(pair: LayerConfig) -> list[Config]:
    return [pair.of(stage) for stage in Stage]


def _seeds(request: RunRequest, backend: Backend, store: Store, problem: Problem, stage: Stage) -> list[Ask]:
    """Published configs, then earlier winners at near shapes."""
    device = request.target.device
    published = backend.seeds(problem.layer, problem.tokens, stage, device)
    earlier = [
        entry
        for winner in store.nearby_winners(problem, backend.name)
        # Of an estimate's short list every entry is worth a look, of a final only its winner.
        for entry in (store.short_list(winner) if winner.kind is Kind.ESTIMATE else [winner])
    ]
    return [
        *(Ask(config, label) for label, config in published.items()),
        *(Ask(entry.config.of(stage), EARLIER) for entry in earlier),
    ]
