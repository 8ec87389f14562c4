"""Estimates again a short list whose machine code was executed, by what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from autotune.check.judged import Judged
from autotune.compile.estimate import EXECUTED, estimate_us, executed_work
from autotune.machine.devices import Device
from autotune.problem.layer import Problem, Stage
from autotune.protocol.backend import Backend
from autotune.results import LayerConfig, Status
from autotune.space.config import Config
from autotune.store.records import TrialRecord
from autotune.store.store import Store


def refine(
    store: Store,
    run: int,
    backend: Backend,
    device: Device,
    environment_key: str,
    problem: Problem,
    listed: Sequence[LayerConfig],
    judged: dict[tuple[Problem, Stage, Config], Judged],
) -> dict[LayerConfig, float] | None:
    """Microseconds of each layer config by executed counts, stored as trials of their own.

    Returns:
        None: of some stage's config too little is known, so the whole list keeps the estimates that it has.
    """
    trials: dict[tuple[Stage, Config], TrialRecord] = {}
    for stage in Stage:
        for config in {entry.of(stage) for entry in listed}:
            trial = _trial(store, backend, device, environment_key, problem, stage, config, judged)
            if trial is None:
                return None
            trials[stage, config] = trial
    for trial in trials.values():
        store.record_trial(run, trial)
    times = {
        entry: sum(trials[stage, entry.of(stage)].figure_us or 0.0 for stage in Stage) for entry in listed
    }
    return dict(sorted(times.items(), key=lambda item: (item[1], item[0].key)))


def _trial(
    store: Store,
    backend: Backend,
    device: Device,
    environment_key: str,
    problem: Problem,
    stage: Stage,
    config: Config,
    judged: dict[tuple[Problem, Stage, Config], Judged],
) -> TrialRecord | None:
    found = judged.get((problem, stage, config))
    verdict = found.verdict if found else None
    if verdict is None:
        return None
    work = executed_work(backend.work(problem, stage, config), verdict.counts)
    known = [
        trial
        for trial in store.trials(
            problem=problem,
            stage=stage,
            backend=backend.name,
            environment_key=environment_key,
            workload=None,
            config=config,
        )
        if trial.status is Status.OK and trial.facts.workgroups_per_cu
    ]
    if work is None or not known:
        return None
    first = TrialRecord(**{field.name: getattr(known[0], field.name) for field in fields(TrialRecord)})
    return replace(
        first,
        workload=EXECUTED,
        origin="executed",
        figure_us=estimate_us(work, first.facts, device),
        gate_error=verdict.error,
        compile_s=0.0,
        measure_s=0.0,
        merged_into=None,
    )
