"""The final: paired rounds on fresh routings decide between the default and one challenger.

The fastest of many noisy times is biased low, and so is the fastest of eight in a final. Hence two looks,
fixed in advance. In the first, all finalists run a few rounds, which pick the challenger and are then put
aside. In the second, it meets the default (and the published config) on yet other routings: only these
rounds decide, and only they give the reported gain. One hypothesis is tested, once, with data that did not
choose it, so nothing needs correcting.

Rounds come in pairs on the same fresh routings, in opposite order (ABBA): a linear drift cancels within a
pair. Bootstrap intervals resample pairs, so they cover the noise of timing and that of the routings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem
from autotune.results import SETTING, Confirmation, Failure, Finalist, Round
from autotune.statistics import Interval, Verdict, median_interval, pair_ratios, verdict
from autotune.text import percent, percent_interval

RunRound = Callable[[int, int], "dict[str, float] | Failure"]
"""Times one contender (its index) on the routings of a seed: microseconds by what was timed."""

SELECT_SEED = 1_000_003
JUDGE_SEED = 2_000_003
COMPARE_SEED = 3_000_017
RACE_SEED = 6_000_011
"""Offsets of the seeds of fresh routings: the search's seed, and each other's, are far away."""


@dataclass(frozen=True)
class Comparison:
    """Paired rounds of B against A.

    Attributes:
        verdict: of B: faster, slower, same, ambiguous.
        ratio: time(B) / time(A) with its 95 % interval.
        a, b: microseconds, each with its 95 % interval.
        rounds: all of them, A first.
    """

    verdict: Verdict
    ratio: Interval
    a: Interval
    b: Interval
    rounds: tuple[Round, ...]


def run_rounds(
    run: RunRound, contenders: Sequence[int], of: int, rounds: int, seed: int
) -> tuple[list[Round], dict[int, Failure]]:
    """Interleaved rounds.

    Args:
        contenders: indices of those who run, in order; every second round they run in reverse.
        of: how many indices there are; those that do not run have no times.
        seed: of the first pair's routings; each later pair has the next one's.

    Returns:
        The rounds, and the contenders that failed in one: they do not run in the rounds that follow.
    """
    failed: dict[int, Failure] = {}
    done = []
    for number in range(rounds):
        us: list[dict[str, float]] = [{} for _ in range(of)]
        for index in contenders if number % 2 == 0 else reversed(contenders):
            if index in failed:
                continue
            answer = run(index, seed + number // 2)
            if isinstance(answer, Failure):
                failed[index] = answer
            else:
                us[index] = answer
        done.append(Round(tuple(us)))
    return done, failed


def ratio_of(
    rounds: Sequence[Round], index: int, base: int, what: str, settings: MeasureSettings
) -> Interval:
    """time(index) / time(base) over the pairs of rounds in which both ran, with its 95 % interval.

    Raises:
        ValueError: there is no such pair.
    """
    ratios = ratios_of(rounds, index, base, what)
    return median_interval(ratios, resamples=settings.resamples, seed=settings.seed)


def ratios_of(rounds: Sequence[Round], index: int, base: int, what: str) -> list[float]:
    """time(index) / time(base) in each pair of rounds in which both ran."""
    pairs = [
        pair
        for pair in zip(rounds[0::2], rounds[1::2], strict=True)
        if all(what in r.us[index] and what in r.us[base] for r in pair)
    ]
    both = [r for pair in pairs for r in pair]
    return pair_ratios([r.us[index][what] for r in both], [r.us[base][what] for r in both])


@dataclass(frozen=True)
class Decision:
    """What the rounds of a final say.

    Attributes:
        challenger: who was put to the test; None: nobody was left to be.
        ratio: its time over the default's in the rounds that decided; None: one of the two failed.
        winner: 0 keeps the default.
    """

    challenger: int | None
    ratio: Interval | None
    winner: int

    @property
    def gain(self) -> tuple[float, float, float]:
        """(default - winner) / default with its 95 % interval: value, low, high; zeros for the default."""
        if self.ratio is None or not self.winner:
            return 0.0, 0.0, 0.0
        return 1 - self.ratio.value, 1 - self.ratio.high, 1 - self.ratio.low


def distinct(finalists: Sequence[Finalist]) -> list[int]:
    """Who may challenge: the default among the candidates too is none, nor is a config's second label."""
    keys = [finalist.config.key for finalist in finalists]
    return [index for index in range(1, len(finalists)) if keys[index] not in keys[:index]]


def selected(field: Sequence[int], selecting: Sequence[Round]) -> int | None:
    """The fastest against the default of those who ran all rounds that select; None: nobody did."""

    def ratio(index: int) -> float:
        return median(r.us[index]["layer"] / r.us[0]["layer"] for r in selecting)

    lasting = [index for index in field if all(r.us[index] for r in selecting)]
    if len(lasting) < 2 or not selecting:
        return lasting[0] if lasting else None
    return min(lasting, key=ratio)


def decision(
    challenger: int, errors: Sequence[float | None], judging: Sequence[Round], settings: MeasureSettings
) -> Decision:
    """Whether the challenger is surely better than the default by the least gain that counts."""
    if errors[0] is None or errors[challenger] is None:
        return Decision(challenger, None, 0)
    ratio = ratio_of(judging, challenger, 0, "layer", settings)
    return Decision(challenger, ratio, challenger if 1 - ratio.high > settings.min_gain else 0)


def split(confirmation: Confirmation, settings: MeasureSettings) -> tuple[Sequence[Round], Sequence[Round]]:
    """A final's rounds: those that selected, and those that decided. Of one challenger none selected."""
    rounds = confirmation.rounds
    if len(rounds) > settings.judge_rounds:
        return rounds[: settings.select_rounds], rounds[settings.select_rounds :]
    timed = [index for index in distinct(confirmation.finalists) if any(r.us[index] for r in rounds)]
    return ((), rounds) if len(timed) < 2 else (rounds, ())


def decide_again(confirmation: Confirmation, settings: MeasureSettings) -> Decision:
    """The decision from what is stored of a final, without the GPU.

    A table of settings decides nothing: its default is kept.

    Args:
        settings: under which it was made.
    """
    errors = confirmation.errors
    tables = any(finalist.label.startswith(SETTING) for finalist in confirmation.finalists)
    if tables or errors[0] is None:
        return Decision(None, None, 0)
    selecting, judging = split(confirmation, settings)
    # Who failed later, but lasted through the selection, took part in it.
    field = [
        index
        for index in distinct(confirmation.finalists)
        if errors[index] is not None or any(r.us[index] for r in confirmation.rounds)
    ]
    challenger = selected(field, selecting)
    if challenger is None or not judging:
        return Decision(None, None, 0)
    return decision(challenger, errors, judging, settings)


def confirm(
    problem: Problem,
    finalists: Sequence[Finalist],
    gate: Callable[[int], "float | Failure"],
    run: RunRound,
    settings: MeasureSettings,
    select: RunRound | None = None,
) -> Confirmation:
    """Decides between the default, which is the first finalist, and the best of the others.

    Args:
        gate: a finalist's numeric gate: its error, or why it failed.
        run: see `RunRound`; times `layer`, by which the decision is made, and may time the stages.
        select: the same for the rounds that pick the challenger: they need the layer alone. None: `run`.

    Raises:
        ValueError: the first finalist is not the default.
    """
    if not finalists or finalists[0].label != "default":
        raise ValueError("the default is the first finalist")
    notes: list[str] = []
    errors: list[float | None] = []
    for index, finalist in enumerate(finalists):
        checked = gate(index)
        errors.append(None if isinstance(checked, Failure) else checked)
        if isinstance(checked, Failure):
            notes.append(f"{finalist.label} {index} was not timed: {checked.status}: {checked.reason}")
    challengers = [index for index in distinct(finalists) if errors[index] is not None]

    def decided(rounds: Sequence[Round], final: Decision) -> Confirmation:
        return Confirmation(
            problem, tuple(finalists), tuple(rounds), tuple(errors), final.winner, *final.gain, tuple(notes)
        )

    kept = Decision(None, None, 0)
    if errors[0] is None:
        notes.append("the default itself failed, so nothing can be compared with it: kept default")
        return decided((), kept)

    def fails(failed: Mapping[int, Failure]) -> None:
        for index, failure in failed.items():
            errors[index] = None
            notes.append(
                f"{finalists[index].label} {index} failed in a round: {failure.status}: {failure.reason}"
            )

    selecting: list[Round] = []
    if len(challengers) > 1:
        field = [0, *challengers]
        seed = settings.seed + SELECT_SEED
        selecting, failed = run_rounds(select or run, field, len(finalists), settings.select_rounds, seed)
        fails(failed)
        challengers = [index for index in challengers if index not in failed]
        if 0 in failed:
            return decided(selecting, kept)
    challenger = selected(challengers, selecting)
    if challenger is None:
        notes.append("no challenger is left: kept default")
        return decided(selecting, kept)
    published = [index for index in challengers if finalists[index].label == "published"]
    field = sorted({0, challenger, *published})
    seed = settings.seed + JUDGE_SEED
    judging, failed = run_rounds(run, field, len(finalists), settings.judge_rounds, seed)
    fails(failed)
    said = decision(challenger, errors, judging, settings)
    if said.ratio is not None and not said.winner:
        notes.append(
            f"kept default: candidate {challenger}'s gain of"
            f" {percent_interval(1 - said.ratio.value, 1 - said.ratio.high, 1 - said.ratio.low)} is not"
            f" surely above {percent(settings.min_gain)}"
        )
    return decided([*selecting, *judging], said)


def compare(run: RunRound, what: str, settings: MeasureSettings, seed: int = 0) -> "Comparison | Failure":
    """Paired rounds of contender 1 (B) against contender 0 (A), and what they say.

    Args:
        seed: of the routings, on top of the settings'.
    """
    first = settings.seed + COMPARE_SEED + seed * settings.judge_rounds
    rounds, failed = run_rounds(run, (0, 1), 2, settings.judge_rounds, first)
    if failed:
        return failed[min(failed)]
    ratio = ratio_of(rounds, 1, 0, what, settings)
    a, b = (interval_of(rounds, index, what, settings) for index in (0, 1))
    return Comparison(verdict(ratio, settings.min_gain), ratio, a, b, tuple(rounds))


def interval_of(rounds: Sequence[Round], index: int, what: str, settings: MeasureSettings) -> Interval:
    """Microseconds of one contender with its 95 % interval, over the pairs of rounds in which it ran."""
    times = times_of(rounds, index, what)
    return median_interval(times, resamples=settings.resamples, seed=settings.seed)


def times_of(rounds: Sequence[Round], index: int, what: str) -> list[float]:
    """Mean microseconds of one contender in each pair of rounds in which it ran."""
    pairs = zip(rounds[0::2], rounds[1::2], strict=True)
    return [
        (first.us[index][what] + second.us[index][what]) / 2
        for first, second in pairs
        if what in first.us[index] and what in second.us[index]
    ]
