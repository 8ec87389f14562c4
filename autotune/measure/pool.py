"""`Measurer`: what the driver asks for times.

One process an environment, one request on the GPU at a time.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.measure import confirm as confirming
from autotune.measure import requests
from autotune.measure.confirm import Comparison
from autotune.measure.lock import InOrder
from autotune.measure.process import WorkerProcess
from autotune.measure.quiet import Quiet
from autotune.measure.settings import MeasureSettings
from autotune.measure.table import time_all
from autotune.problem.layer import Layer, Problem, Stage
from autotune.processes import interrupt
from autotune.protocol.process_knobs import Environments
from autotune.protocol.runtime import GATED, Subject, What
from autotune.results import (
    Confirmation,
    Failure,
    Finalist,
    Gpu,
    LayerConfig,
    LayerMeasurement,
    Measurement,
    Round,
    Status,
)
from autotune.space.config import Config
from autotune.statistics import Interval
from autotune.text import counted

log = logging.getLogger(__name__)
T = TypeVar("T")

ROUND_SAMPLES = 5


class Measurer:
    """Measures on the machine's GPU, in worker processes that may die.

    Requests are served in the order in which they come, one at a time: nothing else runs on the GPU while
    something is timed. A confirmation or comparison is one request, so its rounds are not interrupted.
    Failures of a candidate are values; the only exception is `UserError`, for what no candidate is to blame
    for.

    What was timed while others worked on the GPU is never a final's or a comparison's: it is timed again when
    the GPU is quiet. A window of a search comes back marked, for its caller to put off.

    Args:
        backend: see `runtime.load_runtime`.
        problems: all that will be measured: memory is planned for them.
        say: told, from another thread, in a sentence each, whom it waits for.
        visible: variables that show its workers one GPU of several.
        order: in which the run takes its GPUs, where it has several.

    Example:
        with Measurer("triton", problems) as measurer:
            result = measurer.submit(problem, Stage.STAGE1, config, {}).result()
    """

    def __init__(
        self,
        backend: str,
        problems: Sequence[Problem],
        settings: MeasureSettings | None = None,
        say: Callable[[str], None] | None = None,
        visible: Mapping[str, str] | None = None,
        order: InOrder | None = None,
    ) -> None:
        if not problems:
            raise ValueError("a measurer is made for at least one problem")
        self._backend = backend
        self._problems = tuple(problems)
        self._visible = dict(visible or {})
        self.settings = settings or MeasureSettings()
        self._turns = ThreadPoolExecutor(max_workers=1, thread_name_prefix="measure")
        self._workers: dict[tuple[tuple[str, str], ...], WorkerProcess] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._quiet = Quiet(self.settings, say or log.warning, order)

    @property
    def workload_key(self) -> str:
        """Canonical text of the conditions; times of unlike conditions are never mixed."""
        return self.settings.key

    @property
    def closed(self) -> bool:
        """Whether it was closed: what it answers from then on says nothing of a candidate."""
        return self._closed

    @property
    def gpu(self) -> Gpu:
        """The GPU; its UUID is known once the worker has started."""
        return Gpu.here(self._quiet.gpu)

    @property
    def restarts(self) -> int:
        """Worker processes that were killed or died so far."""
        with self._lock:
            return sum(process.restarts for process in self._workers.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills the workers; what is waiting is cancelled, what is running comes back as a `Failure`."""
        with self._lock:
            self._closed = True
            processes = list(self._workers.values())
        self._quiet.give_up()
        self._turns.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.stop()
        self._turns.shutdown(wait=True)
        self._quiet.leave()

    def fingerprint(self, environment: Mapping[str, str] | None = None) -> Fingerprint:
        """The live device and stack. Starts the worker and loads the first problem's weights.

        Raises:
            UserError: the backend cannot run here, or there is too little memory.
        """
        return interrupt.result_of(self.start(environment))

    def start(self, environment: Mapping[str, str] | None = None) -> "Future[Fingerprint]":
        """Begins with what `fingerprint` waits for.

        The future raises UserError where the backend cannot run here, or there is too little memory.
        """

        def ask() -> Fingerprint:
            worker = self._worker(environment or {})
            self._quiet.enter(worker)
            answer = worker.prepare(self._problems[0].layer)
            if isinstance(answer, Failure):
                raise UserError(f"{answer.reason}: see that the GPU is free and its driver works")
            fingerprint: Fingerprint = answer
            return fingerprint

        return self._turns.submit(ask)

    def ready(self, layer: Layer) -> "Future[None]":
        """Sees that the worker can measure, and starts it anew where it is gone.

        The future raises UserError where none can be made ready: the GPU is lost.
        """

        def ask() -> None:
            answer = self._worker({}).prepare(layer)
            if isinstance(answer, Failure):
                raise UserError(answer.reason)

        return self._turns.submit(ask)

    def renew(self, problems: Sequence[Problem], say: Callable[[str], None] | None = None) -> None:
        """Other problems are measured from now on; the worker and the GPU's lock stay.

        Nothing may be under way. Workers with an environment of their own are ended.
        """
        self._problems = tuple(problems)
        self._quiet.renew(say or log.warning)
        with self._lock:
            for key in [key for key in self._workers if key]:
                self._workers.pop(key).stop()
            for worker in self._workers.values():
                worker.renew(self._problems)

    def submit(
        self, problem: Problem, stage: Stage, config: Config, environment: Mapping[str, str] | None = None
    ) -> "Future[Measurement | Failure]":
        """Gate and one window of a stage's config, when its turn comes."""
        process = environment or {}

        def act() -> Measurement | Failure:
            self._quiet.wait(lambda: self._call(problem.layer, process, requests.watch))
            answer = self._call(problem.layer, process, requests.measure, problem, stage, config)
            self._quiet.heard(answer.contended if isinstance(answer, Measurement) else None)
            return answer

        return self._turns.submit(act)

    def submit_layer(
        self,
        problem: Problem,
        config: LayerConfig,
        default: LayerConfig,
        environment: Mapping[str, str] | None = None,
    ) -> "Future[LayerMeasurement | Failure]":
        """A pass of layers beside the default's, when its turn comes; both need `environment`."""
        process = environment or {}

        def act() -> LayerMeasurement | Failure:
            self._quiet.wait(lambda: self._call(problem.layer, process, requests.watch))
            answer = self._call(problem.layer, process, requests.layer, problem, config, default)
            self._quiet.heard(answer.contended if isinstance(answer, LayerMeasurement) else None)
            return answer

        return self._turns.submit(act)

    def race(
        self,
        problem: Problem,
        configs: Sequence[LayerConfig],
        rounds: int,
        seed: int,
        environments: Environments | None = None,
    ) -> list[Round]:
        """Rounds of all configs, the layer alone and after a kernel that does nothing; see `run_rounds`.

        Args:
            seed: of the routings, on top of the settings' and the races' own.
        """
        both = (What.LAYER, What.SPACED)
        _, run = self._contest(problem, both, configs, environments, steps=self.settings.layer_steps)
        first = self.settings.seed + confirming.RACE_SEED + seed

        def act() -> list[Round]:
            return confirming.run_rounds(run, range(len(configs)), len(configs), rounds, first)[0]

        return interrupt.result_of(self._turns.submit(act))

    def confirm(
        self,
        problem: Problem,
        finalists: Sequence[Finalist],
        environments: Environments | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Confirmation:
        """The final: see `autotune.measure.confirm`. The default is the first finalist.

        Args:
            environments: of a layer config; by default none.
            progress: called with the number of runs done so far, from another thread.
        """
        configs: list[Subject] = [finalist.config for finalist in finalists]
        count = itertools.count(1)

        def ran() -> None:
            if progress:
                progress(next(count))

        gate, run = self._contest(problem, GATED, configs, environments, ran)
        # Most of a final's time goes to contenders that are only being picked from: the layer decides.
        _, select = self._contest(problem, (What.LAYER,), configs, environments, ran)
        return self._noting(lambda: confirming.confirm(problem, finalists, gate, run, self.settings, select))

    def time_all(
        self,
        problem: Problem,
        finalists: Sequence[Finalist],
        environments: Environments | None = None,
        twins: Mapping[int, int] | None = None,
    ) -> Confirmation:
        """Every finalist beside the default in each round, the layer alone: see `autotune.measure.table`."""
        configs: list[Subject] = [finalist.config for finalist in finalists]
        gate, run = self._contest(problem, (What.LAYER,), configs, environments)
        return self._noting(lambda: time_all(problem, finalists, gate, run, self.settings, twins or {}))

    def _noting(self, decide: Callable[[], Confirmation]) -> Confirmation:
        """A confirmation, with a note of what was timed again because others were on the GPU."""

        def act() -> Confirmation:
            before = self._quiet.contended
            decided = replace(decide(), gpu=self.gpu)
            again = self._quiet.contended - before
            if not again:
                return decided
            were = "was" if again == 1 else "were"
            note = (
                f"{counted(again, 'time')} beside others {were} put aside and taken again, the last beside"
                f" {self._quiet.who}"
            )
            return replace(decided, notes=(*decided.notes, note))

        return interrupt.result_of(self._turns.submit(act))

    def compare(
        self,
        problem: Problem,
        a: Subject,
        b: Subject,
        stage: Stage | None = None,
        environments: Environments | None = None,
        *,
        seed: int = 0,
    ) -> Comparison | Failure:
        """Paired rounds of `b` against `a`: of `stage`, or of the layer.

        A config that fails the gate is a `Failure`.

        Args:
            seed: another one compares on other routings.
        """
        what = What.LAYER if stage is None else What(stage.value)
        gate, run = self._contest(problem, (what,), (a, b), environments)

        def act() -> Comparison | Failure:
            for index in (0, 1):
                checked = gate(index)
                if isinstance(checked, Failure):
                    return checked
            return confirming.compare(run, what.value, self.settings, seed)

        return interrupt.result_of(self._turns.submit(act))

    def interval(
        self,
        problem: Problem,
        config: Subject,
        stage: Stage | None = None,
        environments: Environments | None = None,
    ) -> tuple[Interval, float] | Failure:
        """One config's microseconds with their 95 % interval over fresh routings, and its gate's error."""
        what = What.LAYER if stage is None else What(stage.value)
        gate, run = self._contest(problem, (what,), (config,), environments)

        def act() -> tuple[Interval, float] | Failure:
            checked = gate(0)
            if isinstance(checked, Failure):
                return checked
            seed = self.settings.seed + confirming.COMPARE_SEED
            rounds, failed = confirming.run_rounds(run, (0,), 1, self.settings.judge_rounds, seed)
            if failed:
                return failed[0]
            return confirming.interval_of(rounds, 0, what.value, self.settings), checked

        return interrupt.result_of(self._turns.submit(act))

    def _contest(
        self,
        problem: Problem,
        what: Sequence[What],
        configs: Sequence[Subject],
        environments: Environments | None,
        ran: Callable[[], None] | None = None,
        steps: int | None = None,
    ) -> "tuple[Callable[[int], float | Failure], confirming.RunRound]":
        """How contenders are gated and timed, each in the process of its own environment."""
        processes = [environments(config) if environments else {} for config in configs]

        def gate(index: int) -> float | Failure:
            return self._call(problem.layer, processes[index], requests.check, problem, what, configs[index])

        def run(index: int, seed: int) -> dict[str, float] | Failure:
            asked = (problem, what, configs[index], seed, ROUND_SAMPLES, steps)
            while True:
                self._quiet.wait(lambda: self._call(problem.layer, processes[index], requests.watch))
                answer = self._call(problem.layer, processes[index], requests.round_of, *asked)
                if isinstance(answer, Failure) or not self._quiet.heard(answer.contended):
                    break
            if ran:
                ran()
            return answer if isinstance(answer, Failure) else answer.us

        return gate, run

    def _call(
        self,
        layer: Layer,
        environment: Mapping[str, str],
        function: "Callable[..., T | Failure]",
        *arguments: object,
    ) -> "T | Failure":
        if self._closed:
            return Failure(Status.RUNTIME_ERROR, "the measurer was closed")
        worker = self._worker(environment)
        self._quiet.enter(worker)
        return worker.call(layer, function, *arguments)

    def _worker(self, environment: Mapping[str, str]) -> WorkerProcess:
        key = tuple(sorted(environment.items()))
        with self._lock:
            if key not in self._workers:
                everything = {**environment, **self._visible}
                self._workers[key] = WorkerProcess(self._backend, self._problems, self.settings, everything)
                if self._closed:
                    self._workers[key].stop()
            return self._workers[key]
