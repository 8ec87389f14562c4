"""Kernels of unlike backends side by side: each by its own worker, on the same cold weights' routings.

A routing depends on the problem, the seed and the GPU alone, so every backend meets the same experts in the
same order, at the addresses of its own copies. The contenders take turns, one on the GPU at a time, once in
order and once in reverse: a drift of the GPU shows as a wider interval, and is no backend's gain.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.compile.pool import CompilePool, Outcome
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.measure.pool import Measurer
from autotune.problem.layer import Problem, Stage
from autotune.protocol.backend import Backend, default_of, one_config
from autotune.protocol.process_knobs import layer_environment
from autotune.protocol.runtime import Subject
from autotune.results import Failure, LayerConfig
from autotune.search.choose import pairs
from autotune.space.config import Config
from autotune.statistics import Interval

if TYPE_CHECKING:
    from autotune.store.store import Store


@dataclass(frozen=True)
class Contender:
    """A config of one backend's stage, or of its layer.

    Attributes:
        label: where it comes from: `default`, `winner`, `fastest of the search`.
        stored_on: how the stack that found it differs from the one here; empty: not at all.
    """

    backend: str
    label: str
    config: Subject
    stored_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timed:
    """What a contender took.

    Attributes:
        us: microseconds a launch: the middle of both turns' medians, and the hull of their 95 % intervals.
        gate_error: the numeric gate's worst relative error.
    """

    contender: Contender
    us: Interval
    gate_error: float


def default_contender(backend: Backend, problem: Problem, stage: Stage | None, device: Device) -> Contender:
    """What a backend takes by itself.

    Args:
        stage: None: of the layer.
    """
    default = default_of(backend, problem.layer, problem.tokens, device)
    return Contender(backend.name, "default", default if stage is None else default.of(stage))


def contenders(
    backend: Backend,
    problem: Problem,
    stage: Stage | None,
    device: Device,
    here: Fingerprint,
    workload: str,
    stores: "Iterable[Store]" = (),
) -> list[Contender]:
    """The default, and from the databases the latest winner; where there is none, the search's fastest.

    Only what was measured on a GPU of this model counts, and only configs that the space still has.

    Args:
        stage: None: of the layer, whose fastest is that of both stages together.
        here: this machine's stack with the backend.
        workload: the conditions under which the search's times must have been measured.
    """
    spaces = {each: backend.space(problem.layer, problem.tokens, each, device) for each in Stage}
    field = [default_contender(backend, problem, stage, device)]
    default = default_of(backend, problem.layer, problem.tokens, device)

    def add(label: str, layer: LayerConfig, differences: Sequence[str]) -> None:
        parts = Stage if stage is None else (stage,)
        try:
            legal = all(spaces[each].is_legal(layer.of(each)) for each in parts)
        except UserError:  # a knob or value that the space no longer has
            return
        config = layer if stage is None else layer.of(stage)
        if legal and config not in [other.config for other in field]:
            field.append(Contender(backend.name, label, config, tuple(differences)))

    for store in stores:
        winners = [
            winner
            for winner in store.winners(problem=problem, backend=backend.name, kind=Kind.MEASURED)
            if winner.environment.device == here.device
        ]
        for winner in winners:
            add("winner", winner.config, here.differences(winner.environment))
        if stage is None and winners:
            continue  # the layer was decided by layers
        trials = [
            trial
            for run in store.runs()
            for trial in store.trials_of(run.id)
            if trial.time_us is not None
            and (trial.problem.key, trial.backend) == (problem.key, backend.name)
            and (trial.kind, trial.environment.device) == (Kind.MEASURED, here.device)
            and trial.workload == workload
        ]
        ranked = {
            each: sorted(
                {trial.config: trial.time_us or 0.0 for trial in trials if trial.stage is each}.items(),
                key=lambda timed: (timed[1], timed[0].key),
            )
            for each in Stage
        }
        if stage is None:
            best = pairs(*ranked.values(), per_stage=1, one_config=one_config(backend))
            fastest = best[0][0] if best else None
        else:
            fastest = replaced(default, stage, ranked[stage][0][0]) if ranked[stage] else None
        if fastest is not None:
            used = [trial for trial in trials if trial.config == fastest.of(trial.stage)]
            add("fastest of the search", fastest, here.differences(used[-1].environment))
    return field


def compiled(
    pools: Mapping[str, CompilePool], problem: Problem, stage: Stage | None, contender: Contender
) -> list[Future[Outcome]]:
    """The compiles of a contender's kernels, begun: a measure worker would do them one by one, on the GPU's
    time. What fails is told when it is timed.

    Args:
        pools: by backend.
        stage: None: both.
    """
    pool, config = pools[contender.backend], contender.config
    return [
        pool.submit(
            *(problem.layer, problem.tokens, each),
            config.of(each) if isinstance(config, LayerConfig) else config,
        )
        for each in (Stage if stage is None else (stage,))
    ]


def replaced(layer: LayerConfig, stage: Stage, config: Config) -> LayerConfig:
    """A layer config with another config of one stage."""
    return LayerConfig(*(config if each is stage else layer.of(each) for each in Stage))


def side_by_side(
    measurers: Mapping[str, Measurer],
    backends: Mapping[str, Backend],
    problem: Problem,
    stage: Stage | None,
    field: Sequence[Contender],
) -> "list[Timed | Failure]":
    """Times all contenders of a stage, None: of the layer, in their order and again in reverse.

    Args:
        measurers, backends: by the backend's name.
    """
    turns: dict[int, list[tuple[Interval, float]]] = {index: [] for index in range(len(field))}
    failed: dict[int, Failure] = {}
    for index in (*turns, *reversed(turns)):
        if index in failed:
            continue
        entrant = field[index]
        environments = layer_environment(backends[entrant.backend].environment)
        answer = measurers[entrant.backend].interval(problem, entrant.config, stage, environments)
        if isinstance(answer, Failure):
            failed[index] = answer
        else:
            turns[index].append(answer)
    return [
        failed[index] if index in failed else _both(entrant, turns[index])
        for index, entrant in enumerate(field)
    ]


def _both(contender: Contender, turns: Sequence[tuple[Interval, float]]) -> Timed:
    intervals = [interval for interval, _ in turns]
    us = Interval(
        sum(interval.value for interval in intervals) / len(intervals),
        min(interval.low for interval in intervals),
        max(interval.high for interval in intervals),
    )
    return Timed(contender, us, max(error for _, error in turns))
