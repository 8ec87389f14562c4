"""Computes how much of the differences in time each knob explains, and how two of them act together.

A knob's share is epsilon squared: the part of the variance of log(time) that lies between the groups of
configs with equal values of the knob, less the part that as many groups would show by chance,

    1 - (n - 1) / (n - k) * (squares within groups) / (squares in all)

for n configs in k groups, and 0 where that is negative. It sees one knob at a time; shares need not add up
to 1, since knobs act together and since a search does not draw configs evenly: it stays where it is fast, so
a knob that it soon settled looks less important than it is.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log
from statistics import median

from autotune.space.config import Value, value_text
from autotune.store.records import StoredTrial


@dataclass(frozen=True)
class ValueEffect:
    """The configs that share one value of a knob.

    Attributes:
        best_us, median_us: microseconds.
    """

    value: Value
    count: int
    best_us: float
    median_us: float


@dataclass(frozen=True)
class Effect:
    """What one knob does.

    Attributes:
        share: see the module, 0 to 1.
    """

    knob: str
    share: float
    values: tuple[ValueEffect, ...]


@dataclass(frozen=True)
class Cell:
    """The configs at one value of each of two knobs.

    Attributes:
        best_us: microseconds of the fastest.
    """

    count: int
    best_us: float


@dataclass(frozen=True)
class HeatMap:
    """The fastest config found at each pair of values.

    Attributes:
        cells: by (row value, column value); a pair that was not tried, or always failed, is missing.
    """

    row: str
    column: str
    rows: tuple[Value, ...]
    columns: tuple[Value, ...]
    cells: Mapping[tuple[Value, Value], Cell]


def effects(trials: Sequence[StoredTrial]) -> list[Effect]:
    """Every knob that took more than one value among trials with a time, the most important first."""
    timed = [(trial.config, trial.time_us) for trial in trials if trial.time_us is not None]
    knobs = list(timed[0][0]) if timed else []
    ranked = []
    for knob in knobs:
        groups: dict[Value, list[float]] = defaultdict(list)
        for config, us in timed:
            groups[config.get(knob)].append(us)
        if len(groups) > 1:
            values = tuple(
                ValueEffect(value, len(groups[value]), min(groups[value]), median(groups[value]))
                for value in ordered(groups)
            )
            ranked.append(Effect(knob, _share(list(groups.values())), values))
    return sorted(ranked, key=lambda effect: (-effect.share, effect.knob))


def _share(groups: Sequence[Sequence[float]]) -> float:
    logs = [[log(us) for us in group] for group in groups]
    every = [value for group in logs for value in group]
    n, k = len(every), len(groups)
    total = _squares(every)
    if n <= k or total == 0:
        return 0.0
    within = sum(_squares(group) for group in logs)
    return max(0.0, 1 - (n - 1) / (n - k) * within / total)


def _squares(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)


def ordered(values: "Sequence[Value] | Mapping[Value, object]") -> list[Value]:
    """Values as people expect them: unset, then truth values, numbers ascending, words."""

    def place(value: Value) -> tuple[int, float, str]:
        if value is None:
            return 0, 0, ""
        if isinstance(value, bool):
            return 1, value, ""
        return (2, value, "") if isinstance(value, int) else (3, 0, value_text(value))

    return sorted(values, key=place)


def heat_maps(trials: Sequence[StoredTrial], most: int = 3) -> list[HeatMap]:
    """Maps of the pairs among the three most important knobs."""
    leading = effects(trials)[:3]
    maps = []
    for first, second in list(combinations(leading, 2))[:most]:
        # The knob with more values gets the rows: a page is longer than it is wide.
        row, column = (first, second) if len(first.values) >= len(second.values) else (second, first)
        cells: dict[tuple[Value, Value], list[float]] = defaultdict(list)
        for trial in trials:
            if trial.time_us is not None:
                cells[trial.config.get(row.knob), trial.config.get(column.knob)].append(trial.time_us)
        maps.append(
            HeatMap(
                row.knob,
                column.knob,
                tuple(effect.value for effect in row.values),
                tuple(effect.value for effect in column.values),
                {pair: Cell(len(us), min(us)) for pair, us in cells.items()},
            )
        )
    return maps
