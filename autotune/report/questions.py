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


def answers(store: Store, chapter: ProblemReport) -> list[AnsweredQuestion]:
    """Answers for one problem; questions that do not apply are left out."""
    asked = [
        ("How much of the space was tried?", _coverage(chapter)),
        (f"Was the default {chapter.words.adjective} in the same way?", _default(chapter)),
        (chapter.words.doubt, _luck(chapter)),
        ("How noisy was the device?", _noise(store, chapter)),
        ("Are its numbers right?", _gate(chapter)),
        ("What failed?", _failed(chapter)),
        ("What does it not tell?", _untold(chapter)),
    ]
    return [AnsweredQuestion(question, text) for question, text in asked if text]


def legal_configs(chapter: ProblemReport, stage: Stage) -> int | None:
    """Legal configs of the space that the trials belong to; None: another space ships today."""
    trials, device = chapter.trials[stage], known_device(chapter.conditions.environment.device)
    try:
        space = shipped_spaces(chapter.conditions.backend).get(stage)
    except UserError:
        space = None
    if not trials or device is None or space is None or space.digest != trials[-1].space_digest:
        return None
    # Knobs that the installed compiler did not know were left out of every config.
    options = frozenset(param.option for param in space.params if param.name in trials[-1].config)
    return space.at(chapter.problem.layer, chapter.problem.tokens, device, options).size


def _coverage(chapter: ProblemReport) -> str:
    parts = []
    for stage in Stage:
        tried, legal = len(chapter.trials[stage]), legal_configs(chapter, stage)
        if tried:
            share = f" of {legal:,} legal ones ({percent(tried / legal)})" if legal else ""
            parts.append(f"{stage}: {tried:,} configs{share}")
    merged = sum(trial.merged_into is not None for stage in Stage for trial in chapter.trials[stage])
    equal = f" {merged:,} of them had machine code that had been tried before." if merged else ""
    again = sum(trial.origin == RACE for trial in chapter.rows)
    raced = f" The leaders were measured again, {again:,} times in all." if again else ""
    return f"{'; '.join(parts)}.{equal}{raced}" if parts else ""


def _default(chapter: ProblemReport) -> str:
    tried = [default_of(chapter.trials[stage]) for stage in Stage]
    if chapter.confirmation is None:
        return "It was a trial of the search like any other." if all(tried) else ""
    own = "It was a trial of the search like any other and " if all(tried) else "It "
    if chapter.conditions.kind is Kind.REPLAYED:
        return f"{own}was drawn from the same recording in the same way."
    return f"{own}ran in every round of the final, in turns with the winner, on the same routings."


def _luck(chapter: ProblemReport) -> str:
    winner = chapter.contender("winner")
    if chapter.confirmation is None:
        if chapter.conditions.kind is Kind.ESTIMATE:
            return _estimated(chapter)
        return "" if chapter.winner else "There was no final here: these are times of the search alone."
    if winner is None:
        return "Nothing was shown to be faster than the default, so the default was kept."
    if chapter.conditions.kind is Kind.REPLAYED:
        return (
            "As much as the recording: nothing ran. The sums of one recorded sample per stage,"
            f" {chapter.words.rounds(winner.rounds)}, were compared with as many of the default; the search"
            " saw the same recording. The interval is a bootstrap over pairs of draws."
        )
    parts = []
    for stage in Stage:
        config = winner.config.of(stage)
        trial = next((t for t in chapter.trials[stage] if t.config == config and t.time_us), None)
        if trial is not None and trial.time_us and str(stage) in winner.us:
            parts.append(f"{stage} {trial.time_us:.2f} → {winner.us[str(stage)].value:.2f} µs")
    then = f" From search to final its times went {', '.join(parts)}." if parts else ""
    return (
        f"No: the gain comes from {winner.rounds} rounds on routings that the search had not seen, made after"
        f" the winner was chosen. The interval is a bootstrap over pairs of rounds.{then}"
    )


def _estimated(chapter: ProblemReport) -> str:
    """What an estimate is worth, and how the execution of the short list changed it."""
    sentences = ["Nothing was measured: this is a formula's ranking, to be confirmed on the GPU."]
    default = chapter.contender("default")
    compiled = chapter.compiled_us(chapter.ships) if chapter.ships is not None else {}
    if chapter.basis == AS_EXECUTED and default is not None and "layer" in default.us and "layer" in compiled:
        sentences.append(
            "The search ranked by the estimate as compiled, the short list by the estimate as executed: for"
            f" the default these are {compiled['layer']:.2f} and {default.us['layer'].value:.2f} µs."
        )
    return " ".join(sentences)


def _noise(store: Store, chapter: ProblemReport) -> str:
    count, throttled = _samples(store, chapter.rows)
    if not count:
        return ""
    slowed = f"{throttled:,} of them" if throttled else "none of them"
    default = chapter.contender("default")
    recorded = "recorded" if chapter.conditions.kind is Kind.REPLAYED else "raw"
    width = ""
    if default is not None and "layer" in default.us and chapter.confirmation is not None:
        us = default.us["layer"]
        where, wide = chapter.words.final, percent((us.high - us.low) / us.value)
        width = f" The default's 95% CI in the {where} is {wide} wide."
    kept = f"{count:,} {recorded} samples are kept"
    return f"{kept}; {slowed} taken while the device reported a clock limit.{width}"


def _samples(store: Store, trials: Sequence[StoredTrial]) -> tuple[int, int]:
    """How many samples there are, and how many were taken while throttled."""
    count = throttled = 0
    ids = [trial.id for trial in trials]
    with store.reading() as session:
        for start in range(0, len(ids), _CHUNK):
            slowed = func.count().filter(SampleRow.throttled)  # a server sums no booleans
            query = select(func.count(), slowed).where(SampleRow.trial_id.in_(ids[start : start + _CHUNK]))
            taken, limited = session.execute(query).one()
            count, throttled = count + taken, throttled + limited
    return count, throttled


def _gate(chapter: ProblemReport) -> str:
    ran = [t for stage in Stage for t in (*chapter.trials[stage], *chapter.executed.get(stage, ()))]
    ran = [t for t in ran if t.gate_error is not None]
    passed = [t.gate_error for t in ran if t.status is Status.OK and t.gate_error is not None]
    refused = sum(t.status is Status.INCORRECT for t in ran)
    if not passed:
        return ""
    errors = f"relative error {min(passed):.1e} to {max(passed):.1e}"
    if chapter.conditions.kind is Kind.ESTIMATE:
        return (
            f"The machine code of {len(passed):,} short-listed configs was executed on the CPU, a sample of"
            f" its workgroups, and judged against exact integers: {errors}."
        )
    when = " when the table was recorded" if chapter.conditions.kind is Kind.REPLAYED else ""
    winner = chapter.contender("winner") or chapter.contender("default")
    own = (
        f" In the final the chosen layer's error was {winner.error:.1e}."
        if winner is not None and winner.error is not None and not when
        else ""
    )
    return (
        f"Every timed candidate passed a numeric gate first{when}: {errors} against a reference from the same"
        f" quantised operands; {refused or 'none'} were refused there.{own}"
    )


def _failed(chapter: ProblemReport) -> str:
    counts = Counter(t.status for stage in Stage for t in chapter.trials[stage] if t.status is not Status.OK)
    total = sum(len(chapter.trials[stage]) for stage in Stage)
    if not total:
        return ""
    if not counts:
        return f"None of {total:,} candidates."
    words = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    return f"{sum(counts.values()):,} of {total:,} candidates: {words}. None of them can be a winner."


def _untold(chapter: ProblemReport) -> str:
    sentences = []
    if chapter.confirmation is not None:
        sentences += [
            f"{note[0].upper()}{note[1:].rstrip('.')}." for note in chapter.confirmation.confirmation.notes
        ]
    default, best = chapter.contender("default"), fastest(chapter.trials[Stage.STAGE1])
    if default is not None and best and chapter.winner is not None and chapter.winner.kept_default:
        sentences.append("A gain below the least that counts may exist.")
    stack = chapter.conditions.environment
    if chapter.conditions.kind is not Kind.MEASURED:
        sentences.append("What an engine runs around the two stages is not in these times.")
    sentences.append(
        f"The times hold for {stack.device} with exactly this stack, {chapter.problem.tokens_text} and"
        f" {chapter.problem.routing.key} routing; end-to-end speed is another measurement (autotune ab)."
    )
    return " ".join(sentences)


def gain_text(gain: float, low: float | None, high: float | None) -> str:
    """A gain with its interval."""
    if low is None or high is None or low == high:
        return percent(gain, signed=True)
    return f"{percent(gain, signed=True)} ({percent(low, signed=True)} to {percent(high, signed=True)})"
