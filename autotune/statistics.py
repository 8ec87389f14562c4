"""Intervals and verdicts: what may be said of noisy timings. Pure; numpy alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval."""

    value: float
    low: float
    high: float


class Verdict(StrEnum):
    """What paired rounds say of B against A."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    AMBIGUOUS = "ambiguous"


def median_interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The median and its percentile-bootstrap interval.

    Args:
        values: independent of each other: one a round or a pair of rounds, never the raw samples of one
            round, which share the round's drift and would make the interval far too narrow.
        level: coverage aimed at.
        seed: the same values give the same interval.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    if len(values) == 1:  # whatever is drawn
        return Interval(values[0], values[0], values[0])
    import numpy as np  # what shows no interval need not wait for it

    data = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    medians = np.median(data[rng.integers(len(data), size=(resamples, len(data)))], axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.median(data)), float(low), float(high))


def pair_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """One ratio a pair of rounds: the geometric mean of the two rounds' ratios.

    Rounds 2j and 2j + 1 run in opposite order (ABBA) on the same routings: a linear drift raises one ratio as
    much as it lowers the other. The pair is what is independent of other pairs, so it is what is resampled.

    Raises:
        ValueError: an odd number of rounds.
    """
    if len(numerator) != len(denominator) or len(numerator) % 2:
        raise ValueError("rounds come in pairs of opposite order")
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return [sqrt(first * second) for first, second in zip(ratios[0::2], ratios[1::2], strict=True)]


def verdict(ratio: Interval, min_effect: float) -> Verdict:
    """What an interval of time(B) / time(A) says of B.

    `same` is a finding, not a lack of one: the whole interval lies within the least effect that counts.
    """
    if ratio.high < 1 - min_effect:
        return Verdict.FASTER
    if ratio.low > 1 + min_effect:
        return Verdict.SLOWER
    if 1 - min_effect <= ratio.low and ratio.high <= 1 + min_effect:
        return Verdict.SAME
    return Verdict.AMBIGUOUS


def relative_standard_error(values: Sequence[float]) -> float:
    """Relative standard error of the median, by the median absolute deviation.

    1.2533 * sigma / sqrt(n) is the median's standard error for normal noise, 1.4826 * MAD a sigma that one
    interrupted sample does not spoil.

    Returns:
        infinity for fewer than two values.
    """
    if len(values) < 2:
        return float("inf")
    import numpy as np

    data = np.asarray(values, np.float64)
    centre = float(np.median(data))
    sigma = 1.4826 * float(np.median(np.abs(data - centre)))
    return float(1.2533 * sigma / len(data) ** 0.5 / centre)
