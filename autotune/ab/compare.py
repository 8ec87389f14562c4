"""Two arms compared: a ratio with its interval, and a verdict that few repeats cannot force."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, exp, log
from statistics import fmean
from typing import Final

import numpy as np

from autotune.ab.results import METRICS, Metric, Repeat
from autotune.errors import UserError
from autotune.measure.statistics import Interval, Verdict, verdict

TOKENS_APART: Final = 0.01
"""Greatest relative difference of the arms' tokens: with another seed or another stop, it is another load."""

LEVEL: Final = 0.95
_RESAMPLES: Final = 10_000
_EXACT: Final = 20_000  # permutations up to which all are tried


@dataclass(frozen=True)
class Comparison:
    """One figure of both arms.

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
    verdict: Verdict


def compare(base: Sequence[Repeat], tuned: Sequence[Repeat], *, min_effect: float = 0.01) -> list[Comparison]:
    """Every figure that all repeats have.

    Args:
        min_effect: least relative difference that counts.

    Raises:
        UserError: the workloads differ, or an arm has no repeat.
    """
    check_equal(base, tuned)
    shared = [m for m in METRICS if all(m.field in repeat.values for repeat in (*base, *tuned))]
    return [
        compare_values(
            metric,
            [repeat.values[metric.field] for repeat in base],
            [repeat.values[metric.field] for repeat in tuned],
            min_effect,
        )
        for metric in shared
    ]


def compare_values(
    metric: Metric, base: Sequence[float], tuned: Sequence[float], min_effect: float
) -> Comparison:
    """One figure by its values in each repeat.

    A bootstrap over three repeats knows three values and nothing of their spread, so `faster` and `slower`
    need the permutation test as well: it cannot fall below 5 % with fewer than four repeats an arm.
    """
    ratio = _ratio(base, tuned)
    p = _permutation(base, tuned)
    time = Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low) if metric.higher_is_better else ratio
    said = verdict(time, min_effect)
    if said in (Verdict.FASTER, Verdict.SLOWER) and p > 1 - LEVEL:
        said = Verdict.AMBIGUOUS
    if said is Verdict.SAME and min(len(base), len(tuned)) < 3:
        said = Verdict.AMBIGUOUS
    return Comparison(metric, fmean(base), fmean(tuned), ratio, p, said)


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
            mine, theirs = first.workload.get(name), repeat.workload.get(name)
            if mine != theirs:
                raise UserError(
                    f"unequal workloads: {name} is {mine!r} in {first.where} and {theirs!r} in {repeat.where}"
                    ": run both arms with the same options"
                )
    for name in ("input_tokens", "output_tokens"):
        mean_base = fmean(getattr(repeat, name) for repeat in base)
        mean_tuned = fmean(getattr(repeat, name) for repeat in tuned)
        if abs(mean_tuned - mean_base) > TOKENS_APART * max(mean_base, 1.0):
            raise UserError(
                f"unequal workloads: {mean_base:.0f} {name.replace('_', ' ')} a run in the base arm and"
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
    return sum(distance(one) >= seen for one in sums) / len(sums)
