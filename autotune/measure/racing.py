"""Who is measured again: one cheap window for all, more for those whose place is not certain yet.

Pure: it is told windows and says whom to measure next; it measures nothing itself.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median, pstdev

from autotune.statistics import relative_standard_error


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
        """Everybody still in, best first."""
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
