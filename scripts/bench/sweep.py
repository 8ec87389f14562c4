"""The process that records: thousands of configs at every token count, and the best of them again.

A live tuning gates a config at every token count that it may serve, warms up and measures until it is
precise. A sweep cannot afford that a thousand times over: every timed pass has its last step's output judged,
a slow config gets fewer samples, and clocks are warm from the config before. The best are then measured again
in interleaved rounds.
"""

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from statistics import fmean, median, stdev
from typing import TypeVar

from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.measure.contention import Watch, slow_share
from autotune.measure.gate import Case, Incorrect, judge, make_case, poison
from autotune.measure.quiet import not_alone
from autotune.measure.requests import Look
from autotune.measure.settings import MeasureSettings
from autotune.measure.timer import passes_a_sample, time_beside
from autotune.measure.workload import Pass, Workload
from autotune.problem.layer import Problem, Stage
from autotune.protocol.runtime import Launch, Replay, Runtime, Subject, What, load_runtime
from autotune.results import Failure, LayerConfig, LayerMeasurement, Measurement, Sample, Status
from autotune.space.config import Config

T = TypeVar("T")


@dataclass(frozen=True)
class SweepSettings:
    """How a table is recorded.

    Attributes:
        measure: workload and seed; its windows do not apply.
        samples: of a config near the best; the first pass counts as none.
        slow: a config slower than this times the best so far gets two samples.
        contenders: how many of each problem are measured again.
        layers: so many configs of each stage make the recorded layers, every pair of them.
        poor_layer: a layer that takes this many times as long as the default gets one sample.
        round_samples: of a config in one round.
        least_rounds, most_rounds: of the re-measuring; even.
    """

    measure: MeasureSettings
    samples: int = 5
    slow: float = 2.0
    contenders: int = 50
    layers: tuple[int, int] = (0, 0)
    poor_layer: float = 1.3
    round_samples: int = 3
    least_rounds: int = 6
    most_rounds: int = 32


_AGAIN_S = 1.0
_LOOK_S = 0.3  # seconds between two looks for others on the GPU: as long as some twenty layers
FAULT_EXIT = 17
"""Exit code after a device fault: whatever this process measured next would be wrong."""


class Sweeper:
    """One runtime with one layer's weights."""

    def __init__(self, backend: str, problems: Sequence[Problem], settings: SweepSettings) -> None:
        self._runtime: Runtime = load_runtime(backend)
        self._settings = settings
        self._workload = Workload(self._runtime, problems[0].layer, settings.measure)
        self._workload.load(tuple(problems))
        self._cases: dict[Problem, Case] = {}
        self._best: dict[tuple[Stage, Problem], float] = {}
        self._base: dict[Problem, Replay] = {}
        self._looked = -_LOOK_S
        self._watch = Watch(self._runtime.machine, settings.measure)

    def look(self) -> Look:
        """The GPU, and who was on it before anything of this process's was."""
        return Look(self._runtime.machine.identity(), self._runtime.machine.early())

    def fingerprint(self) -> Fingerprint:
        return self._runtime.machine.fingerprint(self._runtime.name, self._runtime.kernel_source())

    def synchronize(self) -> None:
        """Raises RuntimeError when a launch has faulted."""
        self._runtime.machine.synchronize()

    def measure(self, problem: Problem, stage: Stage, config: Config, *, look: bool = True) -> Measurement:
        """Judges one step and times the pass.

        Args:
            look: for others on the GPU, which takes as long as a pass; False: only where samples are odd.

        Raises:
            Incorrect: the numbers are wrong.
        """
        start = time.perf_counter()
        work = self._pass(problem)
        launches = self._runtime.stage(stage, config, work.inputs, work.steps)
        error = self._judge(problem, What(stage.value), config, launches[-1])
        replay = self._runtime.machine.replay(launches)
        try:
            samples = self._time(replay, len(launches), (stage, problem))
        finally:
            replay.close()
        window = [sample.us * len(launches) for sample in samples]
        key = f"{problem.key} {stage} {config.key}"
        contended = None
        if look or slow_share(window):
            contended = self._watch.disturbed(None, key, launches, [window])
        return Measurement(samples, error, time.perf_counter() - start, contended)

    def layer(self, problem: Problem, config: LayerConfig, default: LayerConfig) -> LayerMeasurement:
        """Judges a layer's last step and times its pass beside the default's.

        Raises:
            Incorrect: the numbers are wrong.
        """
        start = time.perf_counter()
        work, machine = self._pass(problem), self._runtime.machine
        base = self._base.get(problem)
        if base is None:
            base = self._base[problem] = machine.replay(self._runtime.layer(default, work.inputs, work.steps))
        launches = self._runtime.layer(config, work.inputs, work.steps)
        error = self._judge(problem, What.LAYER, config, replace(launches[-1], intermediate=None))
        replay = machine.replay(launches)
        try:
            least = self._settings.measure.min_sample_us
            around, taken = time_beside(base, replay, least, self._settings.poor_layer)
        finally:
            replay.close()
        key = f"{problem.key} layer {config.key}"
        contended = None
        if time.monotonic() - self._looked > _LOOK_S:
            self._looked = time.monotonic()
            contended = self._watch.disturbed(None, key, launches, [taken])
        steps = len(launches)
        us, default_us = (tuple(pass_us / steps for pass_us in times) for times in (taken, around))
        return LayerMeasurement(us, default_us, error, time.perf_counter() - start, contended)

    def settle(self, problem: Problem, stage: Stage, configs: Sequence[Config]) -> dict[Config, float]:
        """Microseconds of each after interleaved rounds; whoever may be the fastest gets the most.

        Every second round runs in reverse, so a drift cancels. One that others disturb is run again.

        Raises:
            UserError: others stay on the GPU.
        """
        least, most = self._settings.least_rounds, self._settings.most_rounds
        replays: dict[Config, Replay] = {}
        launches: dict[Config, list[Launch]] = {}
        work = self._pass(problem)
        rounds: dict[Config, list[float]] = {config: [] for config in configs}
        try:
            for config in configs:
                launches[config] = self._runtime.stage(stage, config, work.inputs, work.steps)
                replays[config] = self._runtime.machine.replay(launches[config])
            field = list(configs)

            def timed(config: Config) -> float:
                patience = self._settings.measure.patience_s
                end = time.monotonic() + patience
                while True:
                    before = self._watch.before()
                    passes = passes_a_sample(replays[config].passes(1, 1)[0], self._minimum_us)
                    taken = replays[config].passes(self._settings.round_samples, passes)
                    key = f"settle {problem.key} {stage} {config.key}"
                    who = self._watch.disturbed(before, key, launches[config], [taken])
                    if who is None:
                        return median(taken) / len(work.steps)
                    if time.monotonic() > end:
                        raise UserError(not_alone(who, patience))
                    time.sleep(_AGAIN_S)

            for number in range(most):
                for config in field if number % 2 == 0 else reversed(field):
                    rounds[config].append(timed(config))
                if number + 1 >= least and number % 2:
                    field = unsettled(rounds)
                    if len(field) < 2:
                        break
        finally:
            for replay in replays.values():
                replay.close()
        return {config: fmean(times) for config, times in rounds.items()}

    @property
    def _minimum_us(self) -> float:
        return self._settings.measure.min_sample_us

    def _pass(self, problem: Problem) -> Pass:
        return self._workload.pass_of(problem, self._settings.measure.seed)

    def _judge(self, problem: Problem, what: What, config: Subject, launch: Launch) -> float:
        if problem not in self._cases:
            work, weights = self._pass(problem), self._workload.weights
            assert weights is not None
            self._cases[problem] = make_case("a recorded step", weights, work.inputs, work.steps[-1])
        poison([launch])
        launch.run()
        error = judge(launch, self._cases[problem], what, self._runtime.path(what, config))
        return float(error)

    def _time(self, replay: Replay, launches: int, task: tuple[Stage, Problem]) -> tuple[Sample, ...]:
        first = replay.passes(1, 1)[0]
        best = self._best.get(task, first)
        if first > self._settings.slow * best:
            taken = [first, *replay.passes(1, 1)]
        else:
            taken = replay.passes(self._settings.samples, passes_a_sample(first, self._minimum_us))
        self._best[task] = min(best, median(taken))
        return tuple(Sample(us / launches) for us in taken)


def unsettled(rounds: Mapping[Config, Sequence[float]]) -> list[Config]:
    """Who may yet be the fastest: whose interval (two standard errors) reaches the best's and is not narrow.

    Two configs within 0.2 % of each other are equal for every purpose, so nobody is measured more precisely.
    """

    def spread(config: Config) -> float:
        times = rounds[config]
        return 2 * stdev(times) / sqrt(len(times))

    best = min(rounds, key=lambda config: fmean(rounds[config]))
    limit = fmean(rounds[best]) + spread(best)
    reach = [config for config in rounds if fmean(rounds[config]) - spread(config) <= limit]
    return reach if any(spread(config) > 0.002 * fmean(rounds[config]) for config in reach) else []


_sweeper: Sweeper | None = None


def prepare(
    backend: str, problems: Sequence[Problem], settings: SweepSettings, environment: Mapping[str, str]
) -> tuple[Fingerprint, Look]:
    """Makes this process's sweeper, unless it is there; the stack, and who was on the GPU before it.

    Raises:
        UserError: the backend cannot run here, or there is too little memory.
    """
    sweeper = _made(backend, problems, settings, environment)
    return sweeper.fingerprint(), sweeper.look()


def sweep(
    backend: str,
    problems: Sequence[Problem],
    settings: SweepSettings,
    environment: Mapping[str, str],
    stage: Stage,
    config: Config,
) -> "dict[Problem, Measurement | Failure]":
    """One config at every problem. A config that breaks the device takes this process with it."""
    sweeper = _made(backend, problems, settings, environment)
    # Whoever came meanwhile is still there at the last problem: then all of it is swept again.
    return {
        problem: _guarded(
            sweeper, partial(sweeper.measure, problem, stage, config, look=problem == problems[-1])
        )
        for problem in problems
    }


def layers(
    backend: str,
    problems: Sequence[Problem],
    settings: SweepSettings,
    environment: Mapping[str, str],
    pairs: Sequence[LayerConfig],
    defaults: Mapping[Problem, LayerConfig],
) -> "dict[LayerConfig, dict[int, LayerMeasurement | Failure]]":
    """Some pairs at every problem, by tokens."""
    sweeper = _made(backend, problems, settings, environment)
    return {
        pair: {
            problem.tokens: _guarded(sweeper, partial(sweeper.layer, problem, pair, defaults[problem]))
            for problem in problems
        }
        for pair in pairs
    }


def _guarded(sweeper: Sweeper, act: Callable[[], T]) -> T | Failure:
    """What is measured, or why nothing is; a candidate that breaks the device takes this process with it."""
    start = time.perf_counter()
    try:
        return act()
    except Incorrect as error:
        return Failure(Status.INCORRECT, str(error), time.perf_counter() - start, error.error)
    except Exception as error:  # noqa: BLE001 — a kernel's launch may raise anything
        text = " ".join(str(error).split())[:200]
        failure = Failure(
            Status.RUNTIME_ERROR, f"{type(error).__name__}: {text}", time.perf_counter() - start
        )
        try:
            sweeper.synchronize()
        except RuntimeError:
            print(failure.reason, file=sys.stderr, flush=True)
            os._exit(FAULT_EXIT)
        return failure


def settle(
    backend: str,
    problems: Sequence[Problem],
    settings: SweepSettings,
    environment: Mapping[str, str],
    problem: Problem,
    stage: Stage,
    configs: Sequence[Config],
) -> dict[Config, float]:
    """See `Sweeper.settle`."""
    return _made(backend, problems, settings, environment).settle(problem, stage, configs)


def _made(
    backend: str, problems: Sequence[Problem], settings: SweepSettings, environment: Mapping[str, str]
) -> Sweeper:
    global _sweeper
    if _sweeper is None:
        os.environ.update(environment)  # before anything that reads it is imported
        _sweeper = Sweeper(backend, problems, settings)
        # Capturing a graph collects garbage first; what is there to stay need not be walked each time.
        gc.collect()
        gc.freeze()
    return _sweeper
