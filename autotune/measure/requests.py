"""The process that owns the GPU: answers requests, one at a time.

The functions here are what the driver calls, through `process.WorkerProcess`. All state hangs on one
`Worker`, can be made again from the requests, and is lost without harm when the process is killed.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.measure.gate import Incorrect
from autotune.measure.settings import MeasureSettings
from autotune.measure.worker import RoundTimes, Worker
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.runtime import Subject, What
from autotune.results import Failure, LayerConfig, LayerMeasurement, Measurement, Status
from autotune.space.config import Config

log = logging.getLogger(__name__)
T = TypeVar("T")

_worker: Worker | None = None


@dataclass(frozen=True)
class Look:
    """What a process sees before it puts anything on the GPU.

    Attributes:
        gpu: its UUID or PCI address; None: it is none, or cannot be told from another.
        neighbours: who else is on it, in words; None: nobody.
    """

    gpu: str | None
    neighbours: str | None


def look(backend: str, settings: MeasureSettings) -> Look:
    """The GPU, and who is on it, before anything of ours is.

    Raises:
        UserError: the backend cannot run here.
    """
    global _worker
    if _worker is None:
        _worker = Worker(backend, settings)
    machine = _worker.runtime.machine
    return Look(machine.identity(), machine.early())


def prepare(
    backend: str, settings: MeasureSettings, layer: Layer, problems: Sequence[Problem]
) -> Fingerprint | Failure:
    """Makes the worker and loads a layer; what is there already is kept.

    Raises:
        UserError: the backend cannot run here, or there is too little memory.
    """

    def act() -> Fingerprint:
        global _worker
        if _worker is None:
            _worker = Worker(backend, settings)
        return _worker.prepare(layer, problems)

    outcome: Fingerprint | Failure = _guarded(act)
    return outcome


def measure(problem: Problem, stage: Stage, config: Config) -> Measurement | Failure:
    """One candidate's measurement, or why there is none."""
    return _with_worker(lambda worker: worker.measure(problem, stage, config))


def layer(problem: Problem, config: LayerConfig, default: LayerConfig) -> LayerMeasurement | Failure:
    """A layer beside the default's, or why there is no time."""
    return _with_worker(lambda worker: worker.layer(problem, config, default))


def check(problem: Problem, what: Sequence[What], config: Subject) -> float | Failure:
    """A finalist's numeric gate: its worst relative error."""
    return _with_worker(lambda worker: max(worker.check(problem, stage, config) for stage in what))


def round_of(
    problem: Problem,
    what: Sequence[What],
    config: Subject,
    seed: int,
    samples: int,
    steps: int | None = None,
) -> RoundTimes | Failure:
    """One finalist's part of a round."""
    return _with_worker(lambda worker: worker.round(problem, what, config, seed, samples, steps))


def watch() -> str | Failure | None:
    """See `Worker.watch`."""
    return _with_worker(Worker.watch)


def recover() -> Failure | None:
    """See `Worker.recover`."""
    return _with_worker(Worker.recover)


def throttled() -> bool | Failure:
    """Whether the device limits its clock now."""
    return _with_worker(Worker.throttled)


def _with_worker(act: Callable[[Worker], T]) -> T | Failure:
    worker = _worker
    assert worker is not None, "prepare() comes first"
    return _guarded(lambda: act(worker))


def _guarded(act: Callable[[], T]) -> T | Failure:
    """Does it, and turns what a candidate may do wrong into a value.

    A kernel's launch may raise anything: Triton's errors, torch's, the runtime's, and each would have to be
    imported by the driver to be unpickled there. Whether it broke more than itself is found out by `recover`.
    """
    start = time.perf_counter()
    try:
        return act()
    except UserError:
        raise
    except Incorrect as error:
        return Failure(Status.INCORRECT, str(error), time.perf_counter() - start, error.error)
    except (Exception, SystemExit) as error:  # see above
        log.debug("a candidate failed", exc_info=True)
        text = " ".join(str(error).split())[:300]
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return Failure(Status.RUNTIME_ERROR, reason, time.perf_counter() - start)
