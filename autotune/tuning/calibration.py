"""Has equal GPUs time the same configs, before one problem is shared among them.

Every GPU times the default and a few configs next to it, all GPUs at the same time, as in the search.
"""

import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

from autotune.errors import UserError
from autotune.measure.calibration import WINDOWS, Calibration, calibration_of
from autotune.problem.layer import Problem, Stage
from autotune.processes import interrupt
from autotune.results import Compiled, Failure, Measurement
from autotune.search.evaluate import Compiler
from autotune.space.config import Config
from autotune.store.records import CalibrationWindow
from autotune.tuning.context import Tuning
from autotune.tuning.fleet import Fleet, GpuJudge

UNCOMPARED: Final = "the GPUs could not be compared: each problem is measured on one of them"
_BESIDE_THE_DEFAULT = 3  # configs of each stage


def calibrate(current: Tuning, compiler: Compiler, fleet: Fleet) -> Calibration | None:
    """Times a few configs on every GPU, stores that, and keeps problems apart where GPUs do not agree.

    None: nothing could be timed on two of them, so each problem stays on one.

    Raises:
        UserError: all GPUs are lost.
    """
    problem = current.request.problems[0]
    subjects = _compiled(current, compiler, problem)
    futures = [
        fleet.run(problem, lambda judge: _windows(judge, problem, subjects), only=number)
        for number in fleet.gpus
    ]
    interrupt.wait_for(futures)
    if not fleet.gpus:
        raise futures[-1].exception() or UserError("no GPU is left")
    windows = [window for future in futures if not future.exception() for window in future.result()]
    current.store.record_calibration(current.id, windows)
    calibration = calibration_of(windows)
    if calibration is None or not calibration.agree:
        fleet.stay(_homes(current, fleet))
    return calibration


def _compiled(current: Tuning, compiler: Compiler, problem: Problem) -> list[tuple[Stage, Config]]:
    """The default and legal configs that differ from it in one knob, of those that compile."""
    futures: dict[tuple[Stage, Config], Future[Compiled | Failure]] = {}
    for stage in Stage:
        space = current.searches[problem, stage].space
        near = space.neighbours(space.default)
        beside = random.Random(current.request.seed).sample(near, min(_BESIDE_THE_DEFAULT, len(near)))
        for config in (space.default, *beside):
            futures[stage, config] = compiler.submit(problem.layer, problem.tokens, stage, config)
    interrupt.wait_for(list(futures.values()))
    return [subject for subject, future in futures.items() if isinstance(future.result(), Compiled)]


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


def _homes(current: Tuning, fleet: Fleet) -> dict[Problem, int]:
    """A GPU for each problem: that of most of its stored trials, else that with the fewest problems."""
    gpus = fleet.gpus
    homes: dict[Problem, int] = {}
    for problem in current.request.problems:
        stored = current.store.gpus_of(
            problem,
            backend=current.backend.name,
            environment_key=current.environment.key,
            workload=fleet.workload,
        )
        load = Counter(homes.values())
        homes[problem] = min(gpus, key=lambda number: (-stored.get(gpus[number], 0), load[number], number))
    return homes
