"""Two arms compared: a ratio with its interval, and a verdict that few repeats cannot force."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations
from math import comb, exp, log
from statistics import fmean
from typing import Final

import numpy as np

from autotune.ab.results import ACCEPTED, METRICS, PER_ACCEPTED, Metric, Repeat, per_accepted
from autotune.errors import UserError
from autotune.statistics import Interval, Verdict, verdict

TOKENS_APART: Final = 0.01
"""Greatest relative difference of the arms' tokens: with another seed or another stop, it is another load."""

REPEATS: Final = 4
"""Least repeats per arm: with fewer no permutation test falls below 5 %."""

LEVEL: Final = 0.95
_RESAMPLES: Final = 10_000
_EXACT: Final = 20_000  # permutations up to which all are tried
_MEASURED: Final = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?|NaN|null")


class ArmVerdict(StrEnum):
    """What is said of the tuned arm."""

    FASTER = "faster"
    SLOWER = "slower"
    MORE = "more"
    FEWER = "fewer"
    SAME = "same"
    AMBIGUOUS = "ambiguous"
    TOO_FEW = "too few repeats"

    @property
    def worse(self) -> bool:
        return self in (ArmVerdict.SLOWER, ArmVerdict.FEWER)

    @property
    def said(self) -> bool:
        """It is a verdict, not the lack of one."""
        return self not in (ArmVerdict.AMBIGUOUS, ArmVerdict.TOO_FEW)


_FINDINGS: Final = {
    Verdict.FASTER: ArmVerdict.FASTER,
    Verdict.SLOWER: ArmVerdict.SLOWER,
    Verdict.SAME: ArmVerdict.SAME,
    Verdict.AMBIGUOUS: ArmVerdict.AMBIGUOUS,
}


@dataclass(frozen=True)
class MetricComparison:
    """One metric of both arms.

    Attributes:
        base, tuned: means over repeats.
        ratio: tuned / base with its 95 % interval; below 1 is faster for times, above for rates.
        p: probability of a difference at least as large if the arms did not differ: a permutation test.
        verdict: of the tuned arm, whichever way is better.
    """

    metric: Metric
    base: float
    tuned: float
    ratio: Interval
    p: float
    verdict: ArmVerdict


def compare(
    base: Sequence[Repeat], tuned: Sequence[Repeat], *, min_effect: float = 0.01
) -> list[MetricComparison]:
    """Every metric that all repeats have.

    A server whose drafts are accepted less often computes something else: nothing of that arm is faster, nor
    where their number cannot be read.

    Args:
        min_effect: least relative difference that counts.

    Raises:
        UserError: the workloads differ, an arm has no repeat, or no time or rate is a number in all of them.
    """
    check_equal(base, tuned)
    every = (*base, *tuned)
    values = {
        metric: [repeat.values[metric.field] for repeat in every]
        for metric in METRICS
        if all(metric.field in repeat.values for repeat in every)
    }
    if times := per_accepted(every)[0]:
        values = {
            metric: values.get(metric, times) for metric in METRICS if metric in {*values, PER_ACCEPTED}
        }
    compared = [
        compare_values(metric, row[: len(base)], row[len(base) :], min_effect)
        for metric, row in values.items()
    ]
    if all(comparison.metric is ACCEPTED for comparison in compared):
        raise UserError(
            f"no time or rate is a number above zero in every repeat: {'; '.join(left_out(every))}"
        )
    if undecided(compared, every):
        return [
            replace(comparison, verdict=ArmVerdict.AMBIGUOUS)
            if comparison.verdict is ArmVerdict.FASTER
            else comparison
            for comparison in compared
        ]
    return compared


def undecided(compared: Sequence[MetricComparison], repeats: Sequence[Repeat]) -> str:
    """Why nothing of the tuned arm may be called faster; "": it may."""
    if any(comparison.verdict is ArmVerdict.FEWER for comparison in compared):
        return "the tuned arm accepts fewer drafts, so nothing of it counts as faster"
    if any(ACCEPTED.field in repeat.bad for repeat in repeats):
        return "how many drafts are accepted cannot be read, so nothing counts as faster"
    return ""


def left_out(repeats: Sequence[Repeat]) -> Iterator[str]:
    """Which metrics some repeats have and others have not, and where the first of these stands."""
    for metric in METRICS:
        absent = [repeat for repeat in repeats if metric.field not in repeat.values]
        bad = [repeat for repeat in absent if metric.field in repeat.bad]
        if not absent or (len(absent) == len(repeats) and not bad):
            continue
        first = (bad or absent)[0]
        what = f"is {first.bad[metric.field]}" if bad else "is not"
        others = f" and in {len(absent) - 1} more" if len(absent) > 1 else ""
        yield f"{metric.name} left out: {metric.field} {what} in {first.where}{others}"
    if silent := next((repeat for repeat in repeats if repeat.speculates and not _accepts(repeat)), None):
        yield f"the server speculates, and {silent.where} does not report how many drafts are accepted"


def _accepts(repeat: Repeat) -> bool:
    return ACCEPTED.field in repeat.values or ACCEPTED.field in repeat.bad


def differences(base: Sequence[Repeat], tuned: Sequence[Repeat]) -> Iterator[str]:
    """What of the servers and the user's own labels is not the same in both arms, though it may differ.

    A number that varies within an arm was measured, by whichever version of the tool.
    """
    for name in sorted({name for repeat in (*base, *tuned) for name in repeat.told}):
        mine, theirs = (
            list(dict.fromkeys(repeat.told.get(name, "not reported") for repeat in arm))
            for arm in (base, tuned)
        )
        measured = len(mine) > 1 < len(theirs) and all(_MEASURED.fullmatch(text) for text in (*mine, *theirs))
        if {*mine} != {*theirs} and not measured:
            yield f"{name} is {', '.join(mine)} in the baseline and {', '.join(theirs)} in the tuned arm"


def compare_values(
    metric: Metric, base: Sequence[float], tuned: Sequence[float], min_effect: float
) -> MetricComparison:
    """One metric by its values in each repeat, all above zero.

    A bootstrap over few repeats knows their values and nothing of their spread, so a difference needs the
    permutation test as well.
    """
    ratio = _ratio(base, tuned)
    p = _permutation(base, tuned)
    time = Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low) if metric.higher_is_better else ratio
    finding = _FINDINGS[verdict(time, min_effect)]
    if finding in (ArmVerdict.FASTER, ArmVerdict.SLOWER) and p > 1 - LEVEL:
        finding = ArmVerdict.AMBIGUOUS
    if metric is ACCEPTED and finding is not ArmVerdict.SAME and finding.said:
        finding = ArmVerdict.FEWER if finding.worse else ArmVerdict.MORE
    if min(len(base), len(tuned)) < REPEATS:
        finding = ArmVerdict.TOO_FEW
    return MetricComparison(metric, fmean(base), fmean(tuned), ratio, p, finding)


def check_equal(base: Sequence[Repeat], tuned: Sequence[Repeat]) -> None:
    """Refuses arms that did not do the same.

    Raises:
        UserError: names the first difference.
    """
    if not base or not tuned:
        raise UserError("each arm needs at least one result: give files or folders of both")
    first = base[0]
    for repeat in (*base, *tuned):
        if repeat.tool is not first.tool:
            raise UserError(
                f"{first.where} is of {first.tool} and {repeat.where} of {repeat.tool}: benchmark both arms"
                " with one tool"
            )
        for name in {**first.workload, **repeat.workload}:
            mine, theirs = (each.workload.get(name, "not reported") for each in (first, repeat))
            if mine != theirs:
                raise UserError(
                    f"unequal workloads: {name} is {mine} in {first.where} and {theirs} in {repeat.where}"
                    ": run both arms with the same options"
                )
    for name in ("input_tokens", "output_tokens"):
        mean_base = fmean(getattr(repeat, name) for repeat in base)
        mean_tuned = fmean(getattr(repeat, name) for repeat in tuned)
        if abs(mean_tuned - mean_base) > TOKENS_APART * max(mean_base, 1.0):
            raise UserError(
                f"unequal workloads: {mean_base:.0f} {name.replace('_', ' ')} per run in the base arm and"
                f" {mean_tuned:.0f} in the tuned one: use the same seed and --ignore-eos"
            )


def _ratio(base: Sequence[float], tuned: Sequence[float]) -> Interval:
    """tuned / base of the geometric means, with a bootstrap interval over the repeats of each arm."""
    a, b = np.log(np.asarray(base, np.float64)), np.log(np.asarray(tuned, np.float64))
    rng = np.random.default_rng(0)
    drawn_a = a[rng.integers(len(a), size=(_RESAMPLES, len(a)))].mean(axis=1)
    drawn_b = b[rng.integers(len(b), size=(_RESAMPLES, len(b)))].mean(axis=1)
    low, high = np.quantile(drawn_b - drawn_a, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(exp(float(b.mean() - a.mean())), exp(float(low)), exp(float(high)))


def _permutation(base: Sequence[float], tuned: Sequence[float]) -> float:
    """Two-sided p of the difference of mean logarithms, under exchange of the repeats' arms."""
    values = np.asarray([log(value) for value in (*base, *tuned)])
    count, total = len(base), float(values.sum())

    def distance(sum_a: float) -> float:
        return abs(sum_a / count - (total - sum_a) / (len(values) - count))

    seen = distance(float(values[:count].sum())) - 1e-12
    if comb(len(values), count) <= _EXACT:
        picks = combinations(range(len(values)), count)
        sums = [float(values[list(pick)].sum()) for pick in picks]
    else:
        rng = np.random.default_rng(0)
        sums = [float(rng.permutation(values)[:count].sum()) for _ in range(_EXACT)]
    return sum(distance(drawn) >= seen for drawn in sums) / len(sums)
