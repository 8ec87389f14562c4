"""The replayed machine with several GPUs on several nodes, and the driver's own time on its clock."""

import heapq
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from autotune.problem.layer import Problem, Stage
from autotune.replay.machine import ReplayMachine
from autotune.replay.table import Table
from autotune.results import Compiled
from autotune.search.driver import Driver, DriverSettings, Task
from autotune.search.evaluate import Outcome
from autotune.search.joint import JointModel
from autotune.search.study import StageSearch
from autotune.space.config import Config


@dataclass(frozen=True)
class Costs:
    """What the recording does not tell.

    Attributes:
        start_s: from the command to a plan's first entry: imports, workers; on all GPUs at once.
        entry_s: from there, or the entry before, to an entry's first measurement: weights, searches. A run
            has one. Both as measured on four H200, see docs/fleet.md.
        network_s: there and back between the driver and a GPU of another node, for each candidate.
        final_s: races and final of one problem on one GPU.
        cores_a_gpu: that compile.
        gpus_a_node: those beyond the first node's are reached over the network.
    """

    start_s: float = 6.5
    entry_s: float = 3.5
    network_s: float = 0.002
    final_s: float = 6.0
    cores_a_gpu: int = 16
    gpus_a_node: int = 8


class FleetMachine(ReplayMachine):
    """As `ReplayMachine`, with many GPUs that share one queue.

    Evaluations of one binary that come together go to one GPU, as in `autotune.tuning.fleet`; that a GPU
    which would idle takes some of them is left out, as no recording tells what their second gate costs.

    Attributes:
        driver_s: seconds that the driver worked, on its own clock.
    """

    def __init__(
        self,
        table: Table,
        gpus: int,
        costs: Costs,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        super().__init__(table, compile_processes=gpus * costs.cores_a_gpu)
        self._gpus = [(0.0, number) for number in range(gpus)]
        self._costs, self._cpu_clock = costs, cpu_clock
        self._worked_since = cpu_clock()
        self._group: tuple[str, float, int] | None = None
        self.driver_s = 0.0

    def wait(self, futures: Collection[Future[Any]]) -> Collection[Future[Any]]:
        """Time passes by what the driver has worked since it waited last, then as on a machine with one GPU.

        What has ended meanwhile is done when it comes to wait.
        """
        worked = self._cpu_clock() - self._worked_since
        self.driver_s += worked
        self._now += worked
        while self._events and self._events[0][0] <= self._now:
            _, _, future, result = heapq.heappop(self._events)
            future.set_result(result)
        done = super().wait(futures)
        self._worked_since = self._cpu_clock()
        return done

    def evaluate(
        self, problem: Problem, stage: Stage, config: Config, compiled: Compiled
    ) -> "Future[Outcome]":
        outcome = self._row(stage, config).outcomes[problem.tokens]
        same = self._group is not None and self._group[:2] == (compiled.binary_hash, self._now)
        if same and self._group is not None:
            number = self._group[2]
            free = next(at for at, gpu in self._gpus if gpu == number)
            self._gpus.remove((free, number))
            heapq.heapify(self._gpus)
        else:
            free, number = heapq.heappop(self._gpus)
        self._group = (compiled.binary_hash, self._now, number)
        away = self._costs.network_s if number >= self._costs.gpus_a_node else 0.0
        ends = max(self._now, free) + outcome.seconds + away
        heapq.heappush(self._gpus, (ends, number))
        self.device_s += outcome.seconds
        return self._at(ends, outcome)


@dataclass(frozen=True)
class Simulated:
    """One run.

    Attributes:
        search_s: from the first ask to the last result.
        driver_s: of that, the driver's own work.
        device_s: work of all GPUs.
        evaluations: candidates measured, at every problem.
    """

    search_s: float
    driver_s: float
    device_s: float
    evaluations: int


def simulate(
    table: Table, problems: Sequence[Problem], gpus: int, trials: int, seed: int, costs: Costs
) -> Simulated:
    """The search of some of a table's problems, by the driver itself, on so many GPUs."""
    models = {stage: JointModel(seed) for stage in Stage}
    searches: dict[Task, StageSearch] = {}
    for index, problem in enumerate(problems):
        for stage in Stage:
            searches[problem, stage] = StageSearch(
                table.space(problem.tokens, stage),
                sampler="joint",
                seed=seed * 1000 + index,
                budget=trials,
                model=models[stage],
                tokens=problem.tokens,
            )
    for model in models.values():
        model.prepare()  # while the workers start
    machine = FleetMachine(table, gpus, costs)
    evaluations = 0

    def record(*_: object) -> int:
        nonlocal evaluations
        evaluations += 1
        return evaluations

    Driver(
        searches,
        settings=DriverSettings(
            table.fingerprint.backend,
            table.fingerprint,
            compile_ahead=2 * gpus * costs.cores_a_gpu,
            gpus=gpus,
        ),
        device=table.device,
        pool=machine,
        evaluator=machine,
        artefact_key=lambda problem, stage, config: f"{stage}{config.key}",
        record=record,
        on_trial=lambda _: None,
        clock=machine,
    ).run()
    return Simulated(machine.now(), machine.driver_s, machine.device_s, evaluations)


def makespan(seconds: Sequence[float], gpus: int, start_s: float = 0.0) -> float:
    """When the last of some entries ends, each begun in turn on the GPU that is free first.

    Args:
        start_s: before the first on each GPU.
    """
    ends = [start_s] * gpus
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)
