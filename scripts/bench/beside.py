"""Kernels of unlike backends side by side: each by its own worker, on the same cold weights' routings.

A routing depends on the problem, the seed and the GPU alone, so every backend meets the same experts in the
same order, at the addresses of its own copies. The contenders take turns, one on the GPU at a time, once in
order and once in reverse: a drift of the GPU shows as a wider interval, and is no backend's gain.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.measure.pool import Measurer
from autotune.problem.layer import Problem, Stage
from autotune.protocol.backend import Backend
from autotune.protocol.runtime import Subject
from autotune.results import Failure
from autotune.space.config import Config
from autotune.statistics import Interval

if TYPE_CHECKING:
    from autotune.store.store import Store


@dataclass(frozen=True)
class Contender:
    """A config of one backend's stage.

    Attributes:
        label: where it comes from: `default`, `winner`, `fastest of the search`.
        stored_on: how the stack that found it differs from the one here; empty: not at all.
    """

    backend: str
    label: str
    config: Config
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


def contenders(
    backend: Backend,
    problem: Problem,
    stage: Stage,
    device: Device,
    here: Fingerprint,
    workload: str,
    stores: "Iterable[Store]" = (),
) -> list[Contender]:
    """The default, and from the databases the stage of the latest winner and the search's fastest.

    Only what was measured on a GPU of this model counts, and only configs that the space still has.

    Args:
        here: this machine's stack with the backend.
        workload: the conditions under which the search's times must have been measured.
    """
    space = backend.space(problem.layer, problem.tokens, stage, device)
    found = [Contender(backend.name, "default", space.default)]

    def add(label: str, config: Config, differences: Sequence[str]) -> None:
        try:
            legal = space.is_legal(config)
        except UserError:  # a knob or value that the space no longer has
            return
        if legal and config not in [other.config for other in found]:
            found.append(Contender(backend.name, label, config, tuple(differences)))

    for store in stores:
        for winner in store.winners(problem=problem, backend=backend.name, kind=Kind.MEASURED):
            if winner.environment.device == here.device:
                add("winner", winner.config.of(stage), here.differences(winner.environment))
        timed = [
            (trial.time_us, trial.config.key, trial)
            for run in store.runs()
            for trial in store.trials_of(run.id)
            if trial.time_us is not None
            and (trial.problem.key, trial.stage, trial.backend) == (problem.key, stage, backend.name)
            and (trial.kind, trial.environment.device) == (Kind.MEASURED, here.device)
            and trial.workload == workload
        ]
        if timed:
            _, _, trial = min(timed, key=lambda found: found[:2])
            add("fastest of the search", trial.config, here.differences(trial.environment))
    return found


def side_by_side(
    measurers: Mapping[str, Measurer],
    backends: Mapping[str, Backend],
    problem: Problem,
    stage: Stage,
    field: Sequence[Contender],
) -> "list[Timed | Failure]":
    """Times all contenders of a stage, in their order and again in reverse.

    Args:
        measurers, backends: by the backend's name.
    """
    turns: dict[int, list[tuple[Interval, float]]] = {index: [] for index in range(len(field))}
    failed: dict[int, Failure] = {}
    for index in (*turns, *reversed(turns)):
        if index in failed:
            continue
        one = field[index]
        environment = partial(_known, backends[one.backend].environment(one.config))
        answer = measurers[one.backend].interval(problem, one.config, stage, environment)
        if isinstance(answer, Failure):
            failed[index] = answer
        else:
            turns[index].append(answer)
    return [failed[index] if index in failed else _both(one, turns[index]) for index, one in enumerate(field)]


def _known(environment: Mapping[str, str], _: Subject) -> Mapping[str, str]:
    return environment


def _both(contender: Contender, turns: Sequence[tuple[Interval, float]]) -> Timed:
    intervals = [interval for interval, _ in turns]
    us = Interval(
        sum(interval.value for interval in intervals) / len(intervals),
        min(interval.low for interval in intervals),
        max(interval.high for interval in intervals),
    )
    return Timed(contender, us, max(error for _, error in turns))
