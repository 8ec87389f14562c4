"""The final: paired rounds on fresh routings decide between the default and one challenger.

The fastest of many noisy figures is biased low, and so is the fastest of eight in a final. Hence two looks,
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
from autotune.measure.statistics import Interval, Verdict, median_interval, pair_ratios, verdict
from autotune.problem import Problem
from autotune.results import Confirmation, Failure, Finalist, Round

RunRound = Callable[[int, int], "dict[str, float] | Failure"]
"""Times one contender (its index) on the routings of a seed: microseconds by what was timed."""

SELECT_SEED = 1_000_003
JUDGE_SEED = 2_000_003
COMPARE_SEED = 3_000_017
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
        of: how many indices there are; those who do not run have empty figures.
        seed: of the first pair's routings; each later pair has the next one's.

    Returns:
        The rounds, and who failed in one: he is left out of the rounds that follow.
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
    pairs = [
        pair
        for pair in zip(rounds[0::2], rounds[1::2], strict=True)
        if all(what in r.us[index] and what in r.us[base] for r in pair)
    ]
    both = [r for pair in pairs for r in pair]
    ratios = pair_ratios([r.us[index][what] for r in both], [r.us[base][what] for r in both])
    return median_interval(ratios, resamples=settings.resamples, seed=settings.seed)


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
    # The default among the candidates too is no challenger; neither is one config under two labels.
    challengers = [
        index
        for index, finalist in enumerate(finalists)
        if errors[index] is not None
        and finalist.config.key not in {earlier.config.key for earlier in finalists[:index]}
        and index > 0
    ]

    def decided(rounds: Sequence[Round], winner: int, ratio: Interval | None) -> Confirmation:
        gain = (0.0, 0.0, 0.0) if ratio is None else (1 - ratio.value, 1 - ratio.high, 1 - ratio.low)
        return Confirmation(
            problem, tuple(finalists), tuple(rounds), tuple(errors), winner, *gain, tuple(notes)
        )

    if errors[0] is None:
        notes.append("the default itself failed, so nothing can be compared with it: kept default")
        return decided((), 0, None)

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
            return decided(selecting, 0, None)
    if not challengers:
        notes.append("no challenger is left: kept default")
        return decided(selecting, 0, None)

    def selected(index: int) -> float:
        return median(r.us[index]["layer"] / r.us[0]["layer"] for r in selecting)

    chosen = min(challengers, key=selected) if len(challengers) > 1 else challengers[0]
    published = [index for index in challengers if finalists[index].label == "published"]
    field = sorted({0, chosen, *published})
    seed = settings.seed + JUDGE_SEED
    judging, failed = run_rounds(run, field, len(finalists), settings.judge_rounds, seed)
    fails(failed)
    rounds = [*selecting, *judging]
    if 0 in failed or chosen in failed:
        return decided(rounds, 0, None)
    ratio = ratio_of(judging, chosen, 0, "layer", settings)
    if 1 - ratio.high > settings.min_gain:
        return decided(rounds, chosen, ratio)
    notes.append(
        f"kept default: candidate {chosen}'s gain of {1 - ratio.value:.1%} (95 %: {1 - ratio.high:.1%} to"
        f" {1 - ratio.low:.1%}) is not surely above {settings.min_gain:.1%}"
    )
    return decided(rounds, 0, None)


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
    pairs = zip(rounds[0::2], rounds[1::2], strict=True)
    times = [
        (first.us[index][what] + second.us[index][what]) / 2
        for first, second in pairs
        if what in first.us[index] and what in second.us[index]
    ]
    return median_interval(times, resamples=settings.resamples, seed=settings.seed)
