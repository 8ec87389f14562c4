"""A machine that answers from a table, at the recorded costs, on a clock of its own.

It has a number of compile processes and one GPU, which serves in the order of asking; both work at the same
time. The time that the search itself takes is not counted. A minute of recorded work replays in milliseconds,
and equal searches replay equally.
"""

import heapq
from collections.abc import Collection
from concurrent.futures import Future
from itertools import count
from typing import Any

from autotune.machine.targets import Kind
from autotune.problem.layer import Layer, Problem, Stage
from autotune.replay.table import Recorded, Table
from autotune.results import Compiled, Failure, LayerConfig
from autotune.search.evaluate import LayerOutcome, Outcome
from autotune.space.config import Config


class ReplayMachine:
    """Compiler, evaluator and clock of a replayed run.

    Attributes:
        compile_s: seconds that compiles took, of all processes together.
        device_s: seconds that the GPU was busy.
        first_ready_s: when the first candidate was compiled; None: none was yet.
    """

    kind = Kind.REPLAYED

    def __init__(self, table: Table, *, compile_processes: int = 16) -> None:
        self._table = table
        self._free = [0.0] * compile_processes
        self._device_free = 0.0
        self._now = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Future[Any], Any]] = []
        self._made: dict[tuple[Stage, Config], Future[Compiled | Failure]] = {}
        self.compile_s = 0.0
        self.device_s = 0.0
        self.first_ready_s: float | None = None

    @property
    def workload(self) -> str:
        """Canonical text of the recording's conditions."""
        return replayed_workload(self._table)

    def now(self) -> float:
        """Simulated seconds since the beginning."""
        return self._now

    def wait(self, futures: Collection[Future[Any]]) -> Collection[Future[Any]]:
        """Lets time pass until one of `futures` is done.

        Raises:
            RuntimeError: none of them ever will be.
        """
        while not (done := [future for future in futures if future.done()]):
            if not self._events:
                raise RuntimeError("nothing is under way on the replayed machine")
            self._now, _, future, result = heapq.heappop(self._events)
            future.set_result(result)
        return done

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Compiled | Failure]:
        """A compile in the process that is free first."""
        key = (stage, config)
        if key not in self._made:
            compiled = self._row(stage, config).compiled
            ends = max(self._now, heapq.heappop(self._free)) + compiled.seconds
            heapq.heappush(self._free, ends)
            self.compile_s += compiled.seconds
            if self.first_ready_s is None or ends < self.first_ready_s:
                self.first_ready_s = ends
            self._made[key] = self._at(ends, compiled)
        return self._made[key]

    def evaluate(
        self, problem: Problem, stage: Stage, config: Config, compiled: Compiled
    ) -> "Future[Outcome]":
        """The recorded outcome, when the GPU has got to it."""
        # The sweep's own window, not the settled time: what a search would have seen, noise and all.
        outcome = self._row(stage, config).outcomes[problem.tokens]
        ends = max(self._now, self._device_free) + outcome.seconds
        self._device_free = ends
        self.device_s += outcome.seconds
        return self._at(ends, outcome)

    @property
    def layer_workload(self) -> str:
        return self.workload

    def evaluate_layer(
        self, problem: Problem, config: LayerConfig, default: LayerConfig
    ) -> "Future[LayerOutcome]":
        """The recorded layer, when the GPU has got to it."""
        outcome = self._table.layers[config][problem.tokens]
        ends = max(self._now, self._device_free) + outcome.seconds
        self._device_free = ends
        self.device_s += outcome.seconds
        return self._at(ends, outcome)

    def _row(self, stage: Stage, config: Config) -> Recorded:
        return self._table.stages[stage].by_config[config]

    def _at(self, time: float, result: Any) -> Future[Any]:
        future: Future[Any] = Future()
        heapq.heappush(self._events, (time, next(self._order), future, result))
        return future


def replayed_workload(table: Table) -> str:
    """Never equal to a live one: a live run does not take replayed times for its own."""
    return f"replayed;{table.workload}"
