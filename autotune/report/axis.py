"""Axes: round ticks, linear or logarithmic, and places on them in percent."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log, log10

_NEAR = 1.2  # times the fastest: what is slower is not a contender


@dataclass(frozen=True)
class Axis:
    """A range of values.

    Attributes:
        log: equal ratios are equally far apart.
    """

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value is, in percent of the axis; values outside are put at its ends."""
        clipped = min(max(value, self.low), self.high)
        if self.log:
            return 100 * log(clipped / self.low) / log(self.high / self.low)
        return 100 * (clipped - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """A handful of round values."""
        if self.log:
            decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(tenths / 10 for tenths in range(10, 100))):
                every = [step * 10.0**decade for decade in decades for step in steps]
                fitting = [value for value in every if self.low <= value <= self.high]
                if len(fitting) >= 3:
                    return fitting[:: ceil(len(fitting) / 7)]
            return [self.low, self.high]
        step = _round_step((self.high - self.low) / 5)
        first = ceil(self.low / step - 1e-9)
        return [
            number * step
            for number in range(first, first + 9)
            if number * step <= self.high + 1e-9 * (self.high - self.low)
        ]


def around(values: Sequence[float], *, log: bool = False, margin: float = 0.06) -> Axis:
    """An axis that holds all values with some room."""
    low, high = min(values), max(values)
    if log:
        ratio = (high / low) ** margin if high > low else 1.05
        return Axis(low / ratio, high * ratio, log=True)
    room = (high - low) * margin or abs(high) * 0.05 or 1.0
    return Axis(low - room, high + room)


def focus(times: Sequence[float], marks: Sequence[float]) -> Axis:
    """An axis for the range that matters: from the fastest to the default, or to most of those near it.

    It does not begin at zero, and what is far slower lies outside.

    Args:
        marks: times that must be within it, as the default.
    """
    ordered = sorted(times)
    most = ordered[(3 * len(ordered)) // 4]
    return around([ordered[0], min(most, _NEAR * ordered[0]), *marks])


def _round_step(step: float) -> float:
    size = 10.0 ** floor(log10(step))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= step)


def label(value: float) -> str:
    """A tick's text."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
