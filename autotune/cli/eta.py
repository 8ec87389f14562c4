"""Estimates how long a run still takes, from what was seen of it."""

import time
from collections.abc import Callable
from typing import Final

_TRIALS_SEEN: Final = 5  # after the first: one pace is not a pace
_BURST_S: Final = 0.5  # workers that started together finish together: their trials say nothing of the pace
_FINAL_IN_TRIALS: Final = 100
"""A problem's races and final, in trials' device time: 6 s a shape against 0.05 s a trial on an H100."""
_SLOWER: Final = 1.25  # an estimate that rises by less is noise, and what was shown stays


class Eta:
    """Seconds to the end of a run: what is left of the search at its pace, and the finals or checks.

    In normal progress it only falls. It rises when the run has become slower by a quarter.

    Args:
        timeout_s: seconds after which nothing new is tried; None: never.
        now: a clock, in seconds.
    """

    def __init__(self, timeout_s: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s, self._now = timeout_s, now
        self._deadline: float | None = None
        self._first_at = self._last_at = 0.0
        self._done = self._burst = self._left = 0
        self._device_s = 0.0
        self._problems = 0
        self._finals: list[float] = []
        self._shown: float | None = None

    def start(self, trials: int, problems: int) -> None:
        """The searches begin: so many trials, and a final for each problem."""
        self._left, self._problems = trials, problems
        self._deadline = None if self._timeout_s is None else self._now() + self._timeout_s

    def trial(self, left: int, device_s: float) -> None:
        """A trial is done and so many are left; it had the device for `device_s`."""
        now = self._now()
        if not self._done:
            # What comes before the first trial, such as starting workers, happens once.
            self._first_at = now
        self._done += 1
        self._burst += now - self._first_at < _BURST_S
        self._last_at, self._left = now, left
        self._device_s += device_s

    def final(self) -> None:
        """The final, or the check, of the next problem begins: the searches are over."""
        self._left = 0
        self._finals.append(self._now())

    @property
    def seconds(self) -> float | None:
        """Seconds to go; None: not known yet."""
        now = self._now()
        left = self._estimate(now)
        if left is None:
            return None
        if self._shown is not None and left <= _SLOWER * self._shown + 1:
            left = min(left, self._shown)
        self._shown = left
        return left

    @property
    def finals_known(self) -> bool:
        """Whether the finals are part of it: offline nothing is known of the checks before the second."""
        return self._final_s is not None

    def _estimate(self, now: float) -> float | None:
        final = self._final_s or 0.0
        if self._finals:
            if self._final_s is None:
                return None
            rest = max(final - (now - self._finals[-1]), 0.1 * final)
            return rest + final * max(0, self._problems - len(self._finals))
        seen = self._done - self._burst
        if self._left and seen < _TRIALS_SEEN:
            return None
        pace = (self._last_at - self._first_at) / seen if seen else 0.0
        # The trial under way is getting on, but it is not done before it is.
        search = self._left * pace - min(now - self._last_at, pace if self._left else 0.0)
        if self._deadline is not None:
            search = min(search, max(0.0, self._deadline - now))
        return search + final * self._problems

    @property
    def _final_s(self) -> float | None:
        """Seconds of a problem's final: of those seen, else by what trials cost; None: nothing is known."""
        if len(self._finals) > 1:
            return (self._finals[-1] - self._finals[0]) / (len(self._finals) - 1)
        return _FINAL_IN_TRIALS * self._device_s / self._done if self._device_s else None
