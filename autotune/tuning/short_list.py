"""Makes the offline short list by estimate, without what the machine code shows to be wrong."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace

from autotune.check.check import can_check
from autotune.check.judged import Candidate, Checks, Judged
from autotune.compile.estimate import EXECUTED, PROMISED, estimate_us, executed_work
from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.processes import interrupt
from autotune.protocol.backend import one_config
from autotune.results import LayerConfig, Status
from autotune.search.choose import pairs
from autotune.space.config import Config
from autotune.store.records import ShortListed, StoredTrial, TrialRecord, WinnerRecord
from autotune.tuning.context import Tuning

SHORT_LIST = 8


class Sifter:
    """Checks the layer configs of short lists; a stage's config is checked once a problem.

    Args:
        trials: of a stage's config in this environment, the newest last.

    Attributes:
        judged: every verdict that was asked for.
    """

    def __init__(
        self, checks: Checks, trials: Callable[[Problem, Stage, Config], Sequence[StoredTrial]]
    ) -> None:
        self._checks, self._trials = checks, trials
        self.judged: dict[tuple[Problem, Stage, Config], Judged] = {}

    def sift(
        self, problem: Problem, ranking: Sequence[LayerConfig], default: LayerConfig, most: int
    ) -> list[LayerConfig]:
        """The best `most` layer configs that no check finds wrong, and the default unless it is.

        What could not be judged stays: nothing is known against it.

        Args:
            ranking: all layer configs, the best first.
        """
        while True:
            kept = [config for config in ranking if not self._wrong(problem, config)][:most]
            listed = list(dict.fromkeys([*kept, *([] if self._wrong(problem, default) else [default])]))
            new = {
                (problem, stage, config.of(stage)): "default" if config == default else "short list"
                for config in [default, *listed]
                for stage in Stage
                if (problem, stage, config.of(stage)) not in self.judged
            }
            if not new:
                return listed
            judged = self._checks.judge(
                Candidate(problem, stage, config, label, self._binary(problem, stage, config))
                for (problem, stage, config), label in new.items()
            )
            self.judged |= dict(zip(new, judged, strict=True))

    def _wrong(self, problem: Problem, config: LayerConfig) -> bool:
        verdicts = (self.judged.get((problem, stage, config.of(stage))) for stage in Stage)
        return any(judged is not None and judged.wrong for judged in verdicts)

    def _binary(self, problem: Problem, stage: Stage, config: Config) -> str | None:
        """The hash of the config's newest binary in this environment."""
        trials = self._trials(problem, stage, config)
        return trials[-1].binary_hash if trials else None


def short_list(current: Tuning) -> list[WinnerRecord]:
    """Ranks layer configs by the sum of their stages' estimates and stores the best that are right."""
    listed: list[int] = []
    with ExitStack() as stack:
        sifter = _sifter(current, stack)
        for problem in current.request.problems:
            interrupt.look()
            listed += _list_one(current, problem, sifter)
        if sifter is not None:
            current.checks += sifter.judged.values()
    return current.winners(Kind.ESTIMATE, listed)


def _sifter(current: Tuning, stack: ExitStack) -> Sifter | None:
    """Executes machine code; None: this backend's or device's cannot be."""
    request, backend = current.request, current.backend.name
    device = request.target.device
    if not can_check(backend, device):
        return None
    budget = request.check_timeout_s
    if current.checks_until is not None:
        budget = min(budget, max(0.0, current.checks_until - time.monotonic()))
    checks = Checks(backend, device, workers=request.workers, store=current.store, budget_s=budget)
    return Sifter(stack.enter_context(checks), lambda p, stage, c: current.trials(p, stage, config=c))


def _list_one(current: Tuning, problem: Problem, sifter: Sifter | None) -> list[int]:
    """Stores the short list of a problem; returns its entries' ids."""
    stage1, stage2 = (current.searches[problem, stage].results for stage in Stage)
    default = current.default(problem)
    times, workload = dict(pairs(stage1, stage2, one_config=one_config(current.backend))), PROMISED
    if default not in times:
        if all(current.searches[problem, stage].was_told(default.of(stage)) for stage in Stage):
            current.default_failed(problem, _without_estimate(current, problem, default))
        else:
            reason = "the time limit was reached before the default was compiled: raise --timeout"
            current.listener.on_no_winner(problem, reason)
        return []
    if sifter is None:
        listed = list(dict.fromkeys([*list(times)[:SHORT_LIST], default]))
    else:
        current.listener.on_check(problem)
        listed = sifter.sift(problem, list(times), default, SHORT_LIST)
        if default in listed:
            by_execution = _refine(current, problem, listed, sifter.judged)
            if by_execution is not None:
                times, listed, workload = by_execution, list(by_execution), EXECUTED
    if default not in listed:
        current.default_failed(problem, "the default is wrong: see the checks of its machine code")
    return current.store.record_short_list(
        current.id,
        problem=problem,
        backend=current.backend.name,
        environment=current.environment,
        default=default,
        entries=[ShortListed(config, 1 - times[config] / times[default]) for config in listed],
        workload=workload,
    )


def _without_estimate(current: Tuning, problem: Problem, default: LayerConfig) -> str:
    for stage in Stage:
        trials = current.trials(problem, stage, config=default.of(stage))
        if trials and trials[-1].status is not Status.OK:
            return f"the default of {stage} has no estimate: {trials[-1].status}: {trials[-1].reason}"
    return "the default has no estimate"


def _refine(
    current: Tuning,
    problem: Problem,
    listed: Sequence[LayerConfig],
    judged: dict[tuple[Problem, Stage, Config], Judged],
) -> dict[LayerConfig, float] | None:
    """Microseconds of each layer config by what its machine code did, stored as trials of their own.

    Returns:
        None: of some stage's config too little is known, so the whole list keeps the estimates that it has.
    """
    trials: dict[tuple[Stage, Config], TrialRecord] = {}
    for stage in Stage:
        for config in {entry.of(stage) for entry in listed}:
            trial = _executed_trial(current, problem, stage, config, judged.get((problem, stage, config)))
            if trial is None:
                return None
            trials[stage, config] = trial
    for trial in trials.values():
        current.store.record_trial(current.id, trial)
    times = {entry: sum(trials[stage, entry.of(stage)].time_us or 0.0 for stage in Stage) for entry in listed}
    return dict(sorted(times.items(), key=lambda item: (item[1], item[0].key)))


def _executed_trial(
    current: Tuning, problem: Problem, stage: Stage, config: Config, judged: Judged | None
) -> TrialRecord | None:
    verdict = judged.verdict if judged else None
    if verdict is None:
        return None
    work = executed_work(current.backend.work(problem, stage, config), verdict.counts)
    compiled = [
        trial
        for trial in current.trials(problem, stage, config=config)
        if trial.status is Status.OK and trial.facts.workgroups_per_cu
    ]
    if work is None or not compiled:
        return None
    first = TrialRecord(**{field.name: getattr(compiled[0], field.name) for field in fields(TrialRecord)})
    return replace(
        first,
        workload=EXECUTED,
        origin="executed",
        time_us=estimate_us(work, first.facts, current.request.target.device),
        gate_error=verdict.error,
        compile_s=0.0,
        measure_s=0.0,
        merged_into=None,
    )
