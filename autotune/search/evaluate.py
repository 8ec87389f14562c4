"""Protocols around a search: who compiles its candidates, who times them, the clock it waits by."""

import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Protocol

from autotune.compile.estimate import PROMISED, estimate_us
from autotune.machine.devices import Device
from autotune.machine.targets import Kind
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.backend import Backend
from autotune.results import Compiled, Failure, LayerConfig, LayerMeasurement, Measurement
from autotune.space.config import Config


@dataclass(frozen=True)
class Estimate:
    """A time by formula; see `autotune.compile.estimate`."""

    us: float


Outcome = Measurement | Estimate | Failure
"""What becomes of an evaluation."""

LayerOutcome = LayerMeasurement | Failure
"""What becomes of a layer."""


class Compiler(Protocol):
    """Compiles candidates; see `autotune.compile.pool.CompilePool`."""

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Compiled | Failure]:
        """Starts a compile, or gives the one that is under way or done for the same binary."""


class Evaluator(Protocol):
    """Gives candidates their times."""

    @property
    def kind(self) -> Kind:
        """What every time that it gives is."""

    @property
    def workload(self) -> str:
        """Text of the conditions; times under unlike conditions are never mixed."""

    def evaluate(
        self, problem: Problem, stage: Stage, config: Config, compiled: Compiled
    ) -> "Future[Outcome]":
        """Starts the evaluation of one candidate."""


class LayerEvaluator(Protocol):
    """Times layers beside the default."""

    @property
    def layer_workload(self) -> str:
        """Text of their conditions."""

    def evaluate_layer(
        self, problem: Problem, config: LayerConfig, default: LayerConfig
    ) -> "Future[LayerOutcome]":
        """Starts the timing of one layer, both of whose stages are compiled."""


class Estimator:
    """Estimates on a machine without the target."""

    kind = Kind.ESTIMATE
    workload = PROMISED

    def __init__(self, backend: Backend, device: Device) -> None:
        self._backend = backend
        self._device = device

    def evaluate(
        self, problem: Problem, stage: Stage, config: Config, compiled: Compiled
    ) -> "Future[Outcome]":
        future: Future[Outcome] = Future()
        work = self._backend.work(problem, stage, config)
        future.set_result(Estimate(estimate_us(work, compiled.facts, self._device)))
        return future


_MOMENT_S = 0.5  # after which an interrupt is looked for


class Clock(Protocol):
    """Time, and the waiting for something to finish."""

    def now(self) -> float:
        """Seconds since some beginning."""

    def wait(self, futures: Collection[Future[Any]]) -> Collection[Future[Any]]:
        """Waits until one of `futures` is done, or a moment; those that are done."""


class WallClock:
    """The clock of this machine."""

    def now(self) -> float:
        """Seconds since some beginning; never set back."""
        return time.monotonic()

    def wait(self, futures: Collection[Future[Any]]) -> Collection[Future[Any]]:
        if not futures:
            time.sleep(_MOMENT_S)
        return wait(futures, timeout=_MOMENT_S, return_when=FIRST_COMPLETED).done


@dataclass
class Cost:
    """Mean seconds of what was done so far."""

    count: int = 0
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Takes one more into the mean."""
        self.count += 1
        self.total += seconds

    @property
    def mean(self) -> float:
        """In seconds; 0 where nothing was done."""
        return self.total / self.count if self.count else 0.0
