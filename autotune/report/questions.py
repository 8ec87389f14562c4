"""Answers the questions that a tuning result raises, from its records."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from autotune.errors import UserError
from autotune.machine.devices import known_device
from autotune.machine.targets import Kind
from autotune.problem.layer import Stage
from autotune.report.content import ProblemReport
from autotune.report.query import RACE, default_of, fastest
from autotune.report.wording import AS_EXECUTED
from autotune.results import Status
from autotune.space.read import shipped_spaces
from autotune.store.records import StoredTrial
from autotune.store.schema import SampleRow
from autotune.store.store import Store
from autotune.text import percent

_CHUNK = 500  # SQLite bounds the variables of a statement


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and its answer, one or two sentences."""

    question: str
    text: str


def answers(store: Store, one: ProblemReport) -> list[AnsweredQuestion]:
    """Answers for one problem; questions that do not apply are left out."""
    asked = [
        ("How much of the space was tried?", _coverage(one)),
        (f"Was the default {one.words.adjective} in the same way?", _default(one)),
        (one.words.doubt, _luck(one)),
        ("How noisy was the device?", _noise(store, one)),
        ("Are its numbers right?", _gate(one)),
        ("What failed?", _failed(one)),
        ("What does it not tell?", _untold(one)),
    ]
    return [AnsweredQuestion(question, text) for question, text in asked if text]


def legal_configs(one: ProblemReport, stage: Stage) -> int | None:
    """Legal configs of the space that the trials belong to; None: another space ships today."""
    trials, device = one.trials[stage], known_device(one.conditions.environment.device)
    try:
        space = shipped_spaces(one.conditions.backend).get(stage)
    except UserError:
        space = None
    if not trials or device is None or space is None or space.digest != trials[-1].space_digest:
        return None
    # Knobs that the installed compiler did not know were left out of every config.
    options = frozenset(param.option for param in space.params if param.name in trials[-1].config)
    return space.at(one.problem.layer, one.problem.tokens, device, options).size


def _coverage(one: ProblemReport) -> str:
    parts = []
    for stage in Stage:
        tried, legal = len(one.trials[stage]), legal_configs(one, stage)
        if tried:
            share = f" of {legal:,} legal ones ({percent(tried / legal)})" if legal else ""
            parts.append(f"{stage}: {tried:,} configs{share}")
    merged = sum(trial.merged_into is not None for stage in Stage for trial in one.trials[stage])
    equal = f" {merged:,} of them had machine code that had been tried before." if merged else ""
    again = sum(trial.origin == RACE for trial in one.rows)
    raced = f" The leaders were measured again, {again:,} times in all." if again else ""
    return f"{'; '.join(parts)}.{equal}{raced}" if parts else ""


def _default(one: ProblemReport) -> str:
    found = [default_of(one.trials[stage]) for stage in Stage]
    if one.confirmation is None:
        return "It was a trial of the search like any other." if all(found) else ""
    own = "It was a trial of the search like any other and " if all(found) else "It "
    if one.conditions.kind is Kind.REPLAYED:
        return f"{own}was drawn from the same recording in the same way."
    return f"{own}ran in every round of the final, in turns with the winner, on the same routings."


def _luck(one: ProblemReport) -> str:
    winner = one.contender("winner")
    if one.confirmation is None:
        if one.conditions.kind is Kind.ESTIMATE:
            return _estimated(one)
        return "" if one.winner else "There was no final here: these are times of the search alone."
    if winner is None:
        return "Nothing was shown to be faster than the default, so the default was kept."
    if one.conditions.kind is Kind.REPLAYED:
        return (
            f"As much as the recording: nothing ran. {one.words.rounds(winner.rounds).capitalize()} of one"
            " recorded sample a stage, added up, were held against as many of the default; the search saw the"
            " same recording. The interval is a bootstrap over pairs of draws."
        )
    parts = []
    for stage in Stage:
        config = winner.config.of(stage)
        trial = next((t for t in one.trials[stage] if t.config == config and t.time_us), None)
        if trial is not None and trial.time_us and str(stage) in winner.us:
            parts.append(f"{stage} {trial.time_us:.2f} → {winner.us[str(stage)].value:.2f} µs")
    then = f" From search to final its times went {', '.join(parts)}." if parts else ""
    return (
        f"No: the gain comes from {winner.rounds} rounds on routings that the search had not seen, made after"
        f" the winner was chosen. The interval is a bootstrap over pairs of rounds.{then}"
    )


def _estimated(one: ProblemReport) -> str:
    """What an estimate is worth, and how the execution of the short list changed it."""
    said = ["Nothing was measured: this is a formula's ranking, to be confirmed on the GPU."]
    default = one.contender("default")
    compiled = one.compiled_us(one.ships) if one.ships is not None else {}
    if one.basis == AS_EXECUTED and default is not None and "layer" in default.us and "layer" in compiled:
        said.append(
            "The search ranked by the estimate as compiled, the short list by the estimate as executed: for"
            f" the default these are {compiled['layer']:.2f} and {default.us['layer'].value:.2f} µs."
        )
    return " ".join(said)


def _noise(store: Store, one: ProblemReport) -> str:
    count, throttled = _samples(store, one.rows)
    if not count:
        return ""
    slowed = f"{throttled:,} of them" if throttled else "none of them"
    default = one.contender("default")
    recorded = "recorded" if one.conditions.kind is Kind.REPLAYED else "raw"
    width = ""
    if default is not None and "layer" in default.us and one.confirmation is not None:
        us = default.us["layer"]
        where, wide = one.words.final, percent((us.high - us.low) / us.value)
        width = f" The default's 95% CI in the {where} is {wide} wide."
    kept = f"{count:,} {recorded} samples are kept"
    return f"{kept}; {slowed} taken while the device reported a clock limit.{width}"


def _samples(store: Store, trials: Sequence[StoredTrial]) -> tuple[int, int]:
    """How many samples there are, and how many were taken while throttled."""
    count = throttled = 0
    ids = [trial.id for trial in trials]
    with store.reading() as session:
        for start in range(0, len(ids), _CHUNK):
            query = select(func.count(), func.sum(SampleRow.throttled)).where(
                SampleRow.trial_id.in_(ids[start : start + _CHUNK])
            )
            found, limited = session.execute(query).one()
            count, throttled = count + found, throttled + int(limited or 0)
    return count, throttled


def _gate(one: ProblemReport) -> str:
    ran = [t for stage in Stage for t in (*one.trials[stage], *one.executed.get(stage, ()))]
    ran = [t for t in ran if t.gate_error is not None]
    passed = [t.gate_error for t in ran if t.status is Status.OK and t.gate_error is not None]
    refused = sum(t.status is Status.INCORRECT for t in ran)
    if not passed:
        return ""
    errors = f"relative error {min(passed):.1e} to {max(passed):.1e}"
    if one.conditions.kind is Kind.ESTIMATE:
        return (
            f"The machine code of {len(passed):,} short-listed configs was executed on the CPU, a sample of"
            f" its workgroups, and judged against exact integers: {errors}."
        )
    when = " when the table was recorded" if one.conditions.kind is Kind.REPLAYED else ""
    winner = one.contender("winner") or one.contender("default")
    own = (
        f" In the final the chosen layer's error was {winner.error:.1e}."
        if winner is not None and winner.error is not None and not when
        else ""
    )
    return (
        f"Every timed candidate passed a numeric gate first{when}: {errors} against a reference from the same"
        f" quantised operands; {refused or 'none'} were refused there.{own}"
    )


def _failed(one: ProblemReport) -> str:
    counts = Counter(t.status for stage in Stage for t in one.trials[stage] if t.status is not Status.OK)
    total = sum(len(one.trials[stage]) for stage in Stage)
    if not total:
        return ""
    if not counts:
        return f"None of {total:,} candidates."
    words = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    return f"{sum(counts.values()):,} of {total:,} candidates: {words}. None of them can be a winner."


def _untold(one: ProblemReport) -> str:
    said = []
    if one.confirmation is not None:
        said += [f"{note[0].upper()}{note[1:].rstrip('.')}." for note in one.confirmation.confirmation.notes]
    default, best = one.contender("default"), fastest(one.trials[Stage.STAGE1])
    if default is not None and best and one.winner is not None and one.winner.kept_default:
        said.append("A gain below the least that counts may exist.")
    stack = one.conditions.environment
    if one.conditions.kind is not Kind.MEASURED:
        said.append("What an engine runs around the two stages is not in these times.")
    said.append(
        f"The times hold for {stack.device} with exactly this stack, {one.problem.tokens_text} and"
        f" {one.problem.routing.key} routing; end-to-end speed is another measurement (autotune ab)."
    )
    return " ".join(said)


def gain_text(gain: float, low: float | None, high: float | None) -> str:
    """A gain with its interval."""
    if low is None or high is None or low == high:
        return percent(gain, signed=True)
    return f"{percent(gain, signed=True)} ({percent(low, signed=True)} to {percent(high, signed=True)})"
