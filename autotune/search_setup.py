"""A run's searches, one a stage and problem: what they begin with."""

from autotune.backends.base import Backend, one_config
from autotune.problem import Layer, Problem, Stage
from autotune.results import Kind
from autotune.search.driver import Task
from autotune.search.joint import JointModel
from autotune.search.resume import known_results
from autotune.search.study import Ask, StageSearch
from autotune.store.store import Store
from autotune.tuning import RunRequest, Tuning

_OWED = 8
"""So many of each stage's best in the store are tried at the other stage, where a layer has one config."""


def make_searches(request: RunRequest, backend: Backend, store: Store) -> dict[Task, StageSearch]:
    """The searches, with configs to try first: published ones and earlier winners."""
    made: dict[Task, StageSearch] = {}
    # A stage's searches learn from each other: a model of its own a layer and stage.
    models: dict[tuple[Layer, Stage], JointModel] = {}
    for index, problem in enumerate(request.problems):
        for stage in Stage:
            model = models.setdefault((problem.layer, stage), JointModel(_stream(request.seed, len(models))))
            made[problem, stage] = StageSearch(
                backend.space(problem.layer, problem.tokens, stage, request.target.device),
                sampler=request.sampler,
                # Unlike streams for unlike tasks, equal ones for equal commands.
                seed=_stream(request.seed, 2 * index + (stage is Stage.STAGE2)),
                budget=request.trials,
                seeds=_seeds(request, backend, store, problem, stage),
                stop_when=request.stop_when,
                model=model,
                tokens=problem.tokens,
            )
    for model in models.values():
        model.prepare()
    return made


def _stream(seed: int, number: int) -> int:
    """The seed of one of a run's random streams, 32 bits, which is what numpy takes."""
    return (seed * 1000 + number) % 2**32


def resume(current: Tuning, workload: str) -> int:
    """Tells the searches of everything comparable that the store holds; how many results."""
    resumed = 0
    for (problem, stage), search in current.searches.items():
        stored = current.store.trials(
            problem=problem,
            stage=stage,
            backend=current.backend.name,
            environment_key=current.environment.key,
            workload=workload,
            space_digest=search.space.space.digest,
        )
        for config, us in known_results(stored, allow_spills=current.request.allow_spills).items():
            search.observe(config, us)
            resumed += 1
    if one_config(current.backend):
        _queue_what_one_stage_lacks(current.searches)
    return resumed


def _queue_what_one_stage_lacks(searches: dict[Task, StageSearch]) -> None:
    """Each stage's best, as the store has them, go to the other one: only both figures make a layer's."""
    for (problem, stage), search in searches.items():
        other = searches[problem, Stage.STAGE1 if stage is Stage.STAGE2 else Stage.STAGE2]
        for config, _ in search.results[:_OWED]:
            other.queue(Ask(config, "shared"))


def _seeds(request: RunRequest, backend: Backend, store: Store, problem: Problem, stage: Stage) -> list[Ask]:
    """Published configs, then earlier winners at near shapes."""
    published = backend.seeds(problem.layer, problem.tokens, stage, request.target.device)
    earlier = [
        entry
        for winner in store.nearby_winners(problem, backend.name)
        # Of an estimate's short list every entry is worth a look, of a final only its winner.
        for entry in (store.short_list(winner) if winner.kind is Kind.ESTIMATE else [winner])
    ]
    return [
        *(Ask(config, label) for label, config in published.items()),
        *(Ask(entry.config.of(stage), "earlier") for entry in earlier),
    ]
