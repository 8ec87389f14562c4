"""Stand-ins for the compile pool and the evaluator: they answer at once, and note what they were asked."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.machine.targets import Kind
from autotune.problem.layer import Layer, Problem, Stage
from autotune.results import Compiled, Failure, Measurement, Sample, StaticFacts
from autotune.search.driver import Driver, DriverSettings, Task
from autotune.search.evaluate import Clock, Outcome
from autotune.search.study import StageSearch
from autotune.space.config import Config
from autotune.store.records import TrialRecord
from tests.spaces import MI325X, toy_space
from tests.store.examples import OFFLINE

Verdict = Compiled | Failure | None


def binary(config: Config) -> str:
    return hashlib.sha256(config.key.encode()).hexdigest()


@dataclass
class FakePool:
    """Compiles at once. `say` overrides what becomes of a config."""

    say: Callable[[Config], Verdict] = lambda _: None
    submitted: list[Config] = field(default_factory=list)

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Compiled | Failure]:
        self.submitted.append(config)
        made: Future[Compiled | Failure] = Future()
        made.set_result(self.say(config) or Compiled(binary(config), StaticFacts(spills=0), 0.5))
        return made


@dataclass
class FakeEvaluator:
    """Measures at once."""

    measure: Callable[[Problem, Config], float | Failure]
    evaluated: list[tuple[Problem, Config]] = field(default_factory=list)
    kind: Kind = Kind.MEASURED
    workload: str = "cold"

    def evaluate(
        self, problem: Problem, stage: Stage, config: Config, compiled: Compiled
    ) -> "Future[Outcome]":
        self.evaluated.append((problem, config))
        us = self.measure(problem, config)
        done: Future[Outcome] = Future()
        done.set_result(us if isinstance(us, Failure) else Measurement((Sample(us),), 1e-3, 0.01))
        return done


@dataclass
class Journal:
    """What was stored and told, in order."""

    events: list[tuple[str, TrialRecord]] = field(default_factory=list)

    @property
    def trials(self) -> list[TrialRecord]:
        return [record for event, record in self.events if event == "stored"]

    def store(self, record: TrialRecord, samples: tuple[Sample, ...]) -> int:
        self.events.append(("stored", record))
        return len(self.trials)

    def told(self, record: TrialRecord) -> None:
        self.events.append(("told", record))


def searches(
    folder: Path, problems: list[Problem], *, budget: int = 10, sampler: str = "random"
) -> dict[Task, StageSearch]:
    """One search of the toy space a problem."""
    return {
        (problem, Stage.STAGE1): StageSearch(
            toy_space(folder, tokens=problem.tokens), sampler=sampler, seed=n, budget=budget
        )
        for n, problem in enumerate(problems)
    }


def make_driver(
    tasks: dict[Task, StageSearch],
    pool: FakePool,
    evaluator: FakeEvaluator,
    journal: Journal,
    *,
    artefact_key: Callable[[Problem, Stage, Config], str] = lambda p, s, c: f"{p.layer.key}{s}{c.key}",
    timeout_s: float | None = None,
    allow_spills: bool = False,
    one_config: bool = False,
    compile_ahead: int = 4,
    clock: Clock | None = None,
    layering: Any = None,
) -> Driver:
    return Driver(
        tasks,
        settings=DriverSettings(
            "toy", OFFLINE, allow_spills=allow_spills, timeout_s=timeout_s, compile_ahead=compile_ahead
        ),
        device=MI325X,
        pool=pool,
        evaluator=evaluator,
        artefact_key=artefact_key,
        record=journal.store,
        on_trial=journal.told,
        one_config=one_config,
        clock=clock,
        layering=layering,
    )
