"""Before the final: the leaders of a search are measured again until their order is settled.

The fastest of hundreds of single windows is fast partly by luck. Whoever may be among the best gets further
windows, so that places in the final go to configs that are fast every time.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from statistics import fmean, median, pstdev

from autotune.results import Failure, Measurement
from autotune.space.config import Config
from autotune.statistics import relative_standard_error
from autotune.store.records import TrialRecord

Again = Callable[[Config], Measurement | Failure | None]
"""Measures a config once more; None: there is nothing new to learn."""

# Two windows of one candidate differ by 0.1 to 3 % (H100, our kernels): those further back are out.
_BAND = 1.05
_WINDOWS = 4
# A final's eight pairs, by the sum of their stages, reach to about the fourth of each.
_LEADERS = 4


def settle(
    ranked: Sequence[tuple[Config, float]], again: Again, program: Callable[[Config], str] = lambda c: c.key
) -> list[tuple[Config, float]]:
    """Races the leaders of `ranked`, which is sorted by microseconds.

    Args:
        program: names a config's machine code; of configs with equal code the first races.

    Returns:
        Configs with the mean of their windows' medians, microseconds, the fastest first.
    """
    leaders = distinct(ranked, program)
    if len(leaders) < 2:
        return leaders
    race = Race(finalists=_LEADERS, band=_BAND, windows=_WINDOWS)
    configs = {config.key: config for config, _ in leaders}
    for config, us in leaders:
        race.report(config.key, [us])
    while (key := race.next()) is not None:
        outcome = again(configs[key])
        if outcome is None:
            break
        if isinstance(outcome, Failure):
            race.drop(key)
        else:
            race.report(key, [sample.us for sample in outcome.samples])
    return [(configs[key], sum(race.interval(key)) / 2) for key in race.ranking()]


def distinct(
    ranked: Sequence[tuple[Config, float]], program: Callable[[Config], str]
) -> list[tuple[Config, float]]:
    """One config of each program, in order."""
    first: dict[str, tuple[Config, float]] = {}
    for config, us in ranked:
        first.setdefault(program(config), (config, us))
    return list(first.values())


def window_of(first: TrialRecord, outcome: Measurement | Failure) -> TrialRecord:
    """A further window of an earlier trial's config, as a trial of its own with origin `race`."""
    known = {field.name: getattr(first, field.name) for field in fields(TrialRecord)}
    trial = TrialRecord(**{**known, "origin": "race", "compile_s": 0.0, "merged_into": None, "gpu": None})
    if isinstance(outcome, Failure):
        return replace(
            trial,
            status=outcome.status,
            time_us=None,
            reason=outcome.reason,
            gate_error=outcome.error,
            measure_s=outcome.seconds,
        )
    return replace(
        trial,
        time_us=outcome.us,
        gate_error=outcome.error,
        measure_s=outcome.seconds,
        contended=outcome.contended,
        gpu=outcome.gpu,
    )


class Race:
    """A race among candidates of one problem and stage.

    Every candidate has run one window before the race begins. Then, until nobody is left to ask for or the
    windows are spent: those within `band` of the best get a second one; from the second on, whoever's
    interval still reaches the best's gets another, the one with the fewest windows first. A candidate whose
    best case is worse than the worst case of `finalists` others is out.

    Args:
        finalists: how many places are to be filled.
        band: noise band of one window, as a factor on the best.
        windows: most windows that one candidate gets.

    Example:
        >>> race = Race(finalists=1)
        >>> race.report("a", [10.0, 10.1, 10.2])
        >>> race.report("b", [99.0, 99.1, 99.2])
        >>> race.next()
        'a'
    """

    def __init__(self, *, finalists: int = 8, band: float = 1.5, windows: int = 4) -> None:
        if finalists < 1 or band < 1 or windows < 1:
            raise ValueError("finalists, band and windows are at least 1")
        self._finalists, self._band, self._windows = finalists, band, windows
        self._medians: dict[str, list[float]] = defaultdict(list)
        self._centre: dict[str, float] = {}
        self._noise: dict[str, float] = {}
        self._gone: set[str] = set()

    def report(self, key: str, samples_us: Sequence[float]) -> None:
        """One more window of `key`: its samples, microseconds."""
        self._medians[key].append(median(samples_us))
        self._centre[key] = fmean(self._medians[key])
        error = relative_standard_error(samples_us)
        # The noise within the worst window; between windows there is more, which `interval` sees once there
        # are two.
        self._noise[key] = max(self._noise.get(key, 0.0), error if math.isfinite(error) else 0.0)

    def drop(self, key: str) -> None:
        """`key` failed when it was measured again: it is out."""
        self._gone.add(key)

    def interval(self, key: str) -> tuple[float, float]:
        """Where the true time of `key` is likely to be: its windows' mean, give or take two standard errors.

        One window's own noise says nothing of what clocks and temperature do between windows, so until there
        are two the band stands for that. Two windows that agree by chance still count 0.5 % apart.
        """
        windows = self._medians[key]
        centre = self._centre[key]
        if len(windows) == 1:
            return centre / self._band, centre * self._band
        between = pstdev(windows) / math.sqrt(len(windows) - 1)
        error = max(between, centre * self._noise[key], 0.0025 * centre)
        return centre - 2 * error, centre + 2 * error

    def ranking(self) -> list[str]:
        """Every candidate still in, best first."""
        there = [key for key in self._medians if key not in self._gone]
        return sorted(there, key=lambda key: (self._centre[key], key))

    def next(self) -> str | None:
        """Whom to measure now; None: the race is over."""
        contenders = [key for key in self._contenders() if len(self._medians[key]) < self._windows]
        return min(contenders, key=lambda key: len(self._medians[key]), default=None)

    def _contenders(self) -> list[str]:
        """Those who may be among the finalists, best first.

        After one window: who is within the band of the best. Later: whose interval reaches that of the last
        place to be had; with no more candidates than places, of the first, as it is open who leads.
        """
        ranking = self.ranking()
        if not ranking:
            return []
        near = self._band * self._centre[ranking[0]]
        last = ranking[self._finalists - 1] if len(ranking) > self._finalists else ranking[0]
        limit = self.interval(last)[1]

        def contends(key: str) -> bool:
            once = len(self._medians[key]) == 1
            return self._centre[key] <= near if once else self.interval(key)[0] <= limit

        return [key for key in ranking if contends(key)]

    def finalists(self) -> list[str]:
        """The best, at most as many as there are places."""
        return self.ranking()[: self._finalists]
