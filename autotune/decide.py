"""What a run concludes from its searches: confirmed winners, or offline a short list by estimate."""

import time
from collections.abc import Sequence
from contextlib import ExitStack

from autotune import interrupt
from autotune.backends.base import one_config
from autotune.check.check import can_check
from autotune.check.judged import Checks
from autotune.check.refine import refine
from autotune.check.short_list import Sifter
from autotune.compile.estimate import EXECUTED, PROMISED
from autotune.config import Config
from autotune.problem import Problem, Stage
from autotune.results import Confirmation, Failure, Kind, LayerConfig, Measurement, Status
from autotune.search.choose import Ranked, finalists, pairs
from autotune.search.race import settle, window_of
from autotune.store.records import ShortListed, StoredTrial, WinnerRecord
from autotune.tuning import Judge, Tuning

SHORT_LIST = 8
FINALISTS = 8


def confirm_all(current: Tuning, judge: Judge) -> list[WinnerRecord]:
    """The final of each problem: paired rounds on fresh routings, stored with what they chose."""
    store, backend = current.store, current.backend.name
    made = []
    for problem in current.request.problems:
        interrupt.look()
        one, two = (_settle(current, judge, problem, stage) for stage in Stage)
        contenders = finalists(
            one,
            two,
            default=current.default(problem),
            published=_published(current, problem),
            most=FINALISTS,
            coupled=_coupled(current, problem),
            one_config=one_config(current.backend),
        )
        current.listener.on_confirm(problem, len(contenders))
        confirmation = judge.confirm(problem, contenders)
        current.left_out[problem] = confirmation.left_out
        stored = store.record_confirmation(
            current.id,
            confirmation,
            backend=backend,
            environment=current.environment,
            workload=judge.workload,
            kind=judge.kind,
        )
        if judge.kind is Kind.MEASURED and not current.request.measuring.decides:
            hot = "weights were hot, and serving finds them cold: run without --cold to decide"
            current.listener.on_no_winner(problem, hot)
            continue
        try:
            made.append(store.record_winner(current.id, stored))
        except ValueError as error:
            # The choice failed the numeric gate somewhere: this problem has no winner, the others may.
            current.listener.on_no_winner(problem, _of_what_ships(confirmation) or str(error))
    return _winners(current, judge.kind, made)


def _of_what_ships(confirmation: Confirmation) -> str | None:
    """Why the default, the first finalist, could not be timed to the end; None: it was."""
    begins = f"{confirmation.finalists[0].label} 0 "
    notes = [note for note in confirmation.notes if note.startswith(begins)]
    return f"the default {notes[0].removeprefix(begins)}" if notes else None


def _coupled(current: Tuning, problem: Problem) -> frozenset[str]:
    """Knobs of either stage whose effect reaches beyond it."""
    spaces = (current.searches[problem, stage].space for stage in Stage)
    return frozenset(param.name for space in spaces for param in space.params if param.coupled)


def _settle(current: Tuning, judge: Judge, problem: Problem, stage: Stage) -> Ranked:
    """The stage's configs in settled order; every further window is stored as a trial of its own."""
    store, search = current.store, current.searches[problem, stage]

    stored: dict[Config, StoredTrial] = {}
    for trial in store.trials(
        problem=problem,
        stage=stage,
        backend=current.backend.name,
        environment_key=current.environment.key,
        workload=judge.workload,
    ):
        if trial.status is Status.OK:
            stored.setdefault(trial.config, trial)

    def again(config: Config) -> Measurement | Failure | None:
        while True:
            interrupt.look()
            outcome = judge.again(problem, stage, config)
            if outcome is not None:  # stored before the race hears of it, as every finished result is
                samples = outcome.samples if isinstance(outcome, Measurement) else ()
                store.record_trial(current.id, window_of(stored[config], outcome), samples)
            if not isinstance(outcome, Measurement) or outcome.contended is None:
                return outcome

    return settle(search.results, again, lambda config: stored[config].binary_hash or config.key)


def short_list(current: Tuning) -> list[WinnerRecord]:
    """Ranks layer configs by the sum of their stages' estimates and stores the best that are right."""
    made = []
    with ExitStack() as stack:
        sifter = _sifter(current, stack)
        for problem in current.request.problems:
            interrupt.look()
            made += _list_one(current, problem, sifter)
        if sifter is not None:
            current.checks += sifter.judged.values()
    return _winners(current, Kind.ESTIMATE, made)


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
    return Sifter(stack.enter_context(checks), current.store, backend, current.environment.key)


def _list_one(current: Tuning, problem: Problem, sifter: Sifter | None) -> list[int]:
    """Stores the short list of a problem; returns its entries' ids."""
    one, two = (current.searches[problem, stage].results for stage in Stage)
    default = current.default(problem)
    times, workload = dict(pairs(one, two, one_config=one_config(current.backend))), PROMISED
    if default not in times:
        reason = "the default has no estimate here, so there is nothing to compare with"
        if not all(current.searches[problem, stage].was_told(default.of(stage)) for stage in Stage):
            reason = "time was up before the default was compiled: give --timeout more seconds"
        current.listener.on_no_winner(problem, reason)
        return []
    if sifter is None:
        listed = list(dict.fromkeys([*list(times)[:SHORT_LIST], default]))
    else:
        current.listener.on_check(problem)
        listed = sifter.sift(problem, list(times), default, SHORT_LIST)
        if default in listed:
            by_execution = refine(
                current.store,
                current.id,
                current.backend,
                current.request.target.device,
                current.environment.key,
                problem,
                listed,
                sifter.judged,
            )
            if by_execution is not None:
                times, listed, workload = by_execution, list(by_execution), EXECUTED
    if default not in listed:
        current.listener.on_no_winner(problem, "the default is wrong: see the checks of its machine code")
    return current.store.record_short_list(
        current.id,
        problem=problem,
        backend=current.backend.name,
        environment=current.environment,
        default=default,
        entries=[ShortListed(config, 1 - times[config] / times[default]) for config in listed],
        workload=workload,
    )


def _winners(current: Tuning, kind: Kind, made: Sequence[int]) -> list[WinnerRecord]:
    """The best of each problem among the winners that this run made."""
    stored = current.store.winners(
        backend=current.backend.name, environment_key=current.environment.key, kind=kind
    )
    return [winner for winner in stored if winner.id in made]


def _published(current: Tuning, problem: Problem) -> LayerConfig | None:
    device = current.request.target.device
    one, two = (
        current.backend.seeds(problem.layer, problem.tokens, stage, device).get("published")
        for stage in Stage
    )
    return LayerConfig(one, two) if one is not None and two is not None else None
