"""Has equal GPUs time the same configs, before one problem is shared among them.

Every GPU times the default and a few configs next to it, all GPUs at the same time, as in the search.
"""

import random
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import Future, wait
from typing import Any, Final

from autotune.measure.calibration import WINDOWS, calibration_of
from autotune.problem.layer import Problem, Stage
from autotune.processes import interrupt
from autotune.results import Compiled, Failure, Measurement
from autotune.search.evaluate import Compiler
from autotune.space.config import Config
from autotune.store.records import CalibrationWindow
from autotune.tuning.context import Tuning
from autotune.tuning.fleet import Fleet, GpuJudge

_UNCOMPARED: Final = "the GPUs could not be compared: each problem is measured on one of them"
_BESIDE_THE_DEFAULT = 2  # configs of each stage
_MOMENT_S = 0.2
_FEW_TOKENS = 16


class Calibrating:
    """A calibration under way, in a thread: the search begins meanwhile, with each problem on one GPU.

    When the GPUs are found to agree they share every problem from then on.

    Args:
        compiler: compiles what is to be timed.
    """

    def __init__(self, current: Tuning, compiler: Compiler, fleet: Fleet) -> None:
        self._current, self._fleet = current, fleet
        self._problem = compared(current.request.problems)
        self._compiling = _compiling(current, compiler, self._problem)
        self._thread = threading.Thread(target=self._run, name="calibration", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits for its end, which that of the fleet brings about too."""
        while self._thread.is_alive():
            interrupt.look()
            self._thread.join(_MOMENT_S)

    def _run(self) -> None:
        fleet, problem = self._fleet, self._problem
        if not self._done(self._compiling.values()):
            return
        compiled = [s for s, future in self._compiling.items() if isinstance(future.result(), Compiled)]
        measuring = [
            fleet.run(problem, lambda judge: _windows(judge, problem, compiled), only=number)
            for number in fleet.gpus
        ]
        if not self._done(measuring):
            return
        windows = [w for future in measuring if not future.exception() for w in future.result()]
        self._current.store.record_calibration(self._current.id, windows)
        calibration = calibration_of(windows)
        if calibration is not None and calibration.agree:
            fleet.stay({})
        self._current.listener.on_gpus(_UNCOMPARED if calibration is None else calibration.text)

    def _done(self, futures: Collection["Future[Any]"]) -> bool:
        """Waits for all; False: the fleet was closed."""
        while not self._fleet.closed:
            if not wait(futures, _MOMENT_S).not_done:
                return not any(future.cancelled() for future in futures)
        return False


def compared(problems: Sequence[Problem]) -> Problem:
    """That on which GPUs are compared: of the most tokens among those whose gate takes no time.

    The default's times in one search spread over 2.4 % at one token and over 1.1 % at seven (H100).
    """
    few = [problem for problem in problems if problem.tokens <= _FEW_TOKENS]
    return max(few, key=lambda problem: problem.tokens) if few else min(problems, key=lambda p: p.tokens)


def _compiling(
    current: Tuning, compiler: Compiler, problem: Problem
) -> "dict[tuple[Stage, Config], Future[Compiled | Failure]]":
    """Compiles of the default and of legal configs that differ from it in one knob."""
    futures: dict[tuple[Stage, Config], Future[Compiled | Failure]] = {}
    for stage in Stage:
        space = current.searches[problem, stage].space
        near = space.neighbours(space.default)
        beside = random.Random(current.request.seed).sample(near, min(_BESIDE_THE_DEFAULT, len(near)))
        for config in (space.default, *beside):
            futures[stage, config] = compiler.submit(problem.layer, problem.tokens, stage, config)
    return futures


def _windows(
    judge: GpuJudge, problem: Problem, subjects: Sequence[tuple[Stage, Config]]
) -> list[CalibrationWindow]:
    """What one GPU takes; a config that fails, or that others disturbed, is left out."""
    windows = []
    for stage, config in subjects:
        for _ in range(WINDOWS):
            outcome = judge.again(problem, stage, config)
            if not isinstance(outcome, Measurement):
                break
            if outcome.contended is None:
                windows.append(CalibrationWindow(problem, stage, config, judge.gpu, outcome.us))
    return windows


def homes(current: Tuning, fleet: Fleet) -> dict[Problem, int]:
    """A GPU for each problem: that of most of its stored trials, else that with the fewest problems."""
    gpus = fleet.gpus
    chosen: dict[Problem, int] = {}
    for problem in current.request.problems:
        stored = current.store.gpus_of(
            problem,
            backend=current.backend.name,
            environment_key=current.environment.key,
            workload=fleet.workload,
        )
        load = Counter(chosen.values())
        chosen[problem] = min(gpus, key=lambda number: (-stored.get(gpus[number], 0), load[number], number))
    return chosen
