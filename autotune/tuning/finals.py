"""The finals: each problem's best configs against its default, in paired rounds on fresh routings."""

from dataclasses import replace

from autotune.machine.targets import Kind
from autotune.problem.layer import Problem, Stage
from autotune.processes import interrupt
from autotune.protocol.backend import one_config, published_of
from autotune.report.configs import layer_changes
from autotune.results import Confirmation, Failure, Measurement, Status
from autotune.search.choose import Ranked, finalists
from autotune.search.layers import LayerSearch
from autotune.search.race import settle, window_of
from autotune.space.config import Config
from autotune.store.records import StoredTrial, WinnerRecord
from autotune.tuning.context import Judge, Tuning
from autotune.tuning.fleet import each_on_one
from autotune.tuning.layer_race import race_layers
from autotune.tuning.searches import layers_of

FINALISTS = 8


def confirm_all(current: Tuning, judge: Judge) -> list[WinnerRecord]:
    """The final of each problem: paired rounds on fresh routings, stored with what they chose."""

    def final(problem: Problem, one_gpu: Judge) -> int | None:
        return _final(current, one_gpu, problem)

    done = each_on_one(judge, current.request.problems, final)
    chosen = [interrupt.result_of(future) for future in done]
    return current.winners(judge.kind, [winner for winner in chosen if winner is not None])


def _final(current: Tuning, judge: Judge, problem: Problem) -> int | None:
    """The id of a problem's winner, decided here or by a driver that shares the work. None: it has none."""
    interrupt.look()
    if current.shared is None:
        return _decide(current, judge, problem)
    decided = current.shared.take_final(problem)
    if decided is not None:
        return decided.id
    winner = _decide(current, judge, problem)
    current.shared.final_ended(problem)
    return winner


def _decide(current: Tuning, judge: Judge, problem: Problem) -> int | None:
    """Decides one problem; the stored winner's id. None: it has none."""
    store, backend, device = current.store, current.backend, current.request.target.device
    published = published_of(backend, problem.layer, problem.tokens, device)
    layers = current.layers.get(problem)
    raced = race_layers(current, judge, problem, layers) if layers and layers.best else None
    if raced is None:
        stage1, stage2 = (_settle(current, judge, problem, stage) for stage in Stage)
        contenders = finalists(
            stage1,
            stage2,
            default=current.default(problem),
            published=published,
            most=FINALISTS,
            coupled=_coupled(current, problem),
            one_config=one_config(backend),
        )
    else:
        contenders = raced.finalists(published)
    current.listener.on_confirm(problem, len(contenders))
    confirmation = judge.confirm(problem, contenders)
    if raced is not None:
        confirmation = replace(confirmation, notes=(*confirmation.notes, *raced.notes(confirmation)))
    lost = _failed_in_the_search(current, problem, layers) if layers else []
    current.left_out[problem] = (*lost, *confirmation.left_out)
    stored = store.record_confirmation(
        current.id,
        confirmation,
        backend=backend.name,
        environment=current.environment,
        workload=judge.workload,
        kind=judge.kind,
    )
    if judge.kind is Kind.MEASURED and not current.request.measuring.decides:
        hot = "weights were hot, and serving finds them cold: run without --cold to decide"
        current.listener.on_no_winner(problem, hot)
        return None
    try:
        return store.record_winner(current.id, stored)
    except ValueError as error:
        # The choice failed the numeric gate somewhere: this problem has no winner, the others may.
        if (reason := _of_the_default(confirmation)) is not None:
            current.default_failed(problem, reason)
        else:
            current.listener.on_no_winner(problem, str(error))
        return None


def _failed_in_the_search(current: Tuning, problem: Problem, search: LayerSearch) -> list[str]:
    """Layers that could not be timed, which no final can choose: a sentence for each way to fail."""
    latest = {trial.config: trial.outcome for trial in layers_of(current, problem, search)}
    ways = {
        outcome.reason: layer_changes(config, search.default)
        for config, outcome in latest.items()
        if isinstance(outcome, Failure)
    }
    return [f"a layer ({changes}) was not timed in the search: {why}" for why, changes in ways.items()]


def _of_the_default(confirmation: Confirmation) -> str | None:
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
    for trial in current.trials(problem, stage, workload=judge.workload):
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
