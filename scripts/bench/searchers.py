"""Searches on recorded problems: ours, and what it is compared with."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autotune import identity, search
from autotune.problem.layer import Stage
from autotune.replay.machine import ReplayMachine
from autotune.replay.table import Table
from autotune.results import Sample
from autotune.search.driver import Driver, DriverSettings, Task
from autotune.search.joint import JointModel
from autotune.search.recorded import Recorded, recorded
from autotune.search.samplers import JOINT
from autotune.search.study import StageSearch
from autotune.space.config import Config
from autotune.store.records import TrialRecord
from bench.scoring import JointRun, Recording, Run

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


def source_digest() -> str:
    """SHA-256, hex, of the search's own sources: other sources may search otherwise."""
    return identity.source_digest(Path(search.__file__).parent.glob("*.py"))


def ours(table: Table, recording: Recording, seed: int, evaluations: int) -> Run:
    """Our default on one problem alone: no other token count, no earlier run."""
    space = table.space(recording.tokens, recording.stage)
    search = StageSearch(
        space,
        sampler=JOINT,
        seed=seed,
        budget=min(evaluations, space.size - 1),
        model=JointModel(seed, others(table, recording.stage)),
        tokens=recording.tokens,
    )
    position = positions(recording)
    order: list[int] = []
    while (ask := search.ask()) is not None:
        row = position[ask.config]
        order.append(row)
        us = recording.seen[row]
        search.tell(ask.config, None if np.isnan(us) else float(us))
    return Run(order)


def ours_jointly(table: Table, problems: Sequence[Recording], seed: int, candidates: int) -> JointRun:
    """Our default on all problems at once, through the driver, on the replayed machine."""
    models = {
        stage: JointModel(seed + index, others(table, stage)) for index, stage in enumerate(table.stages)
    }
    searches: dict[Task, StageSearch] = {}
    index_of: dict[Task, int] = {}
    position: Mapping[Stage, dict[Config, int]] = {p.stage: positions(p) for p in problems}
    wanted = {(p.stage, p.tokens): index for index, p in enumerate(problems)}
    for problem in table.problems:
        for stage in table.stages:
            if (stage, problem.tokens) not in wanted:
                continue
            space = table.space(problem.tokens, stage)
            searches[problem, stage] = StageSearch(
                space,
                sampler=JOINT,
                seed=seed,
                budget=min(candidates, space.size - 1),
                model=models[stage],
                tokens=problem.tokens,
            )
            index_of[problem, stage] = wanted[stage, problem.tokens]
    machine = ReplayMachine(table)
    events: list[tuple[int, int]] = []

    def record(trial: TrialRecord, samples: tuple[Sample, ...]) -> int:
        index = index_of[trial.problem, trial.stage]
        events.append((index, position[trial.stage][trial.config]))
        return len(events)

    Driver(
        searches,
        settings=DriverSettings(table.fingerprint.backend, table.fingerprint, compile_ahead=16),
        device=table.device,
        pool=machine,
        evaluator=machine,
        artefact_key=lambda problem, stage, config: f"{stage}{config.key}",
        record=record,
        on_trial=lambda _: None,
        clock=machine,
    ).run()
    return JointRun(events)


def others(table: Table, stage: Stage) -> list[Recorded]:
    """What a search is told of other layers: this table is left out."""
    backend, arch = table.fingerprint.backend, table.fingerprint.arch
    return recorded(backend, arch, stage, leaving=[table.layer.key])


def exhaustive(recording: Recording) -> Run:
    """The order of the search-space file."""
    return Run(range(len(recording.rows)))


def uniform(recording: Recording, seed: int) -> Run:
    """Without replacement, until nothing is left."""
    order = list(range(len(recording.rows)))
    random.Random(seed).shuffle(order)
    return Run(order)


def optuna(table: Table, recording: Recording, sampler: "BaseSampler", evaluations: int, asks: int) -> Run:
    """Plain Optuna: categorical knobs, illegal configs pruned. Neither they nor repetitions cost anything."""
    import optuna as package

    package.logging.set_verbosity(package.logging.WARNING)
    space = table.space(recording.tokens, recording.stage)
    choices: dict[str, BaseDistribution] = {
        p.name: package.distributions.CategoricalDistribution([str(v) for v in p.values])
        for p in space.params
    }
    written = {p.name: {str(v): v for v in p.values} for p in space.params}
    study = package.create_study(sampler=sampler)
    position = positions(recording)
    order: dict[int, None] = {}
    for _ in range(asks):
        trial = study.ask(choices)
        row = position.get(Config({name: written[name][text] for name, text in trial.params.items()}))
        if row is not None:
            order[row] = None
        if row is None or np.isnan(recording.seen[row]):
            study.tell(trial, state=package.trial.TrialState.PRUNED)
        else:
            study.tell(trial, float(recording.seen[row]))
        if len(order) >= evaluations:
            break
    return Run(list(order))


def positions(recording: Recording) -> dict[Config, int]:
    """Row numbers by config."""
    return {row.config: number for number, row in enumerate(recording.rows)}
