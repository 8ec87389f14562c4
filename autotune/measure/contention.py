"""Finds others' work in a window's samples, from times alone.

Two processes on one GPU take turns of milliseconds. A sample is shorter or not much longer than that, so
the samples of a disturbed window fall apart into groups: those that ran alone and those that waited. Where
samples hold many turns, or the GPU's parts are shared out, all are slower alike. That shows only against
something that was timed before: a short pass of the default's launches, timed again after each window.

A GPU may also be slower by itself: on an H100 that nobody else was on, a default stayed 7 % slower. Who slows
it is at work while this process waits. A GPU that idles then, again and again, has nobody on it, and what the
default takes now is its time.
"""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

from autotune.measure.neighbours import BUSY, HIDDEN
from autotune.measure.settings import MeasureSettings
from autotune.measure.timer import passes_a_sample
from autotune.protocol.runtime import ClockReading, Launch, Machine, Replay

GAP = 1.15
"""Ratio of two neighbouring samples, in order of size, that belong to unlike groups. H100: the samples of 95
of 100 undisturbed windows are within 1.2 % of each other; beside another process they are 1.2 to 6 times
apart."""
DRIFT = 1.06
"""How much slower the reference is when it is slower: its windows differ by 0.1 to 3 %, and by up to 9 % now
and then where launches are short, on a GPU that nobody else is on."""
STRAY = 0.02
"""Share of slow samples that a quiet GPU has at most: about one in a thousand, an interrupt of the host's."""
_UNSURE = 0.25
"""Share of slow samples from which a window's median is no longer surely that of the others."""
_LOOK = 5
_WATCH_S = 0.25
_WATCH_LOOKS = 100
_IDLE = 3
"""Waits in a row in which the GPU idled, after which a slower default is the GPU's own."""


def slow_share(us: Sequence[float]) -> float:
    """Share of samples above the first gap; 0: they are one group."""
    ordered = sorted(us)
    for index, (lower, upper) in enumerate(pairwise(ordered), 1):
        if upper > GAP * lower:
            return 1 - index / len(ordered)
    return 0.0


class Reference:
    """A short pass that is timed again and again, against its own best.

    Args:
        replay: the pass.
        passes: of one sample.
    """

    def __init__(
        self, machine: Machine, replay: Replay, passes: int, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._machine, self._replay, self._passes, self._now = machine, replay, passes, now
        self._best: tuple[float, ClockReading] | None = None
        self._drifted: tuple[float, ClockReading] | None = None
        self._accepted = False

    def calm(self) -> bool:
        """A short look, a few milliseconds: nothing is to be seen."""
        taken, clock = self._look()
        return not slow_share(taken) and self._slower(median(taken), clock) <= DRIFT

    def watch(self) -> str | None:
        """A longer look, a quarter of a second: what is to be seen, in words; None: nothing.

        Its first half lets clocks rise that had fallen while nothing ran.
        """
        looks: list[tuple[list[float], ClockReading]] = []
        start = self._now()
        while len(looks) < _WATCH_LOOKS and (len(looks) < 2 or self._now() - start < _WATCH_S):
            looks.append(self._look())
        late = looks[len(looks) // 2 :]
        times = [us for taken, _ in late for us in taken]
        self._drifted = None
        if (share := slow_share(times)) > STRAY:
            return f"{share:.0%} of the default's own samples wait for it"
        if (slower := self._slower(median(times), late[-1][1])) <= DRIFT:
            return None
        self._drifted = median(times), late[-1][1]
        return f"the default is {slower - 1:.0%} slower than before"

    @property
    def drifted(self) -> bool:
        """Whether the last `watch` saw all samples slower alike."""
        return self._drifted is not None

    def accept(self) -> None:
        """What the last `watch` saw is the default's time from now on, though it may be faster again."""
        self._best, self._accepted = self._drifted or self._best, True

    def close(self) -> None:
        """Frees the graph."""
        self._replay.close()

    def _look(self) -> tuple[list[float], ClockReading]:
        taken = self._replay.passes(_LOOK, self._passes)
        clock = self._machine.clock()
        if self._best is None or (median(taken) < self._best[0] and not self._accepted):
            self._best = median(taken), clock
        return taken, clock

    def _slower(self, us: float, clock: ClockReading) -> float:
        """How many times slower than its best, beyond what a lower core clock explains."""
        assert self._best is not None
        best, then = self._best
        lower = then.mhz / clock.mhz if then.mhz and clock.mhz else 1.0
        return us / best / max(1.0, lower)


class Watch:
    """Tells whether what a process times is its own.

    Nothing is watched where others were asked for (`MeasureSettings.shared_gpu`), nor on a host's processor.
    """

    def __init__(self, machine: Machine, settings: MeasureSettings) -> None:
        self._machine, self._settings = machine, settings
        self._on = machine.watched and not settings.shared_gpu
        self._reference: Reference | None = None
        self._apart: set[str] = set()
        self._idle = 0

    def before(self) -> str | None:
        """Who is there when something begins to be timed, in words; None: nobody that can be told."""
        return self._machine.neighbours() if self._on else None

    def now(self) -> str | None:
        """Who disturbs the GPU now, in words; None: nobody that is seen in a quarter of a second."""
        busy = self._machine.busy() if self._on else None  # before the look, which is work as well
        who = self.before()
        if who is not None or self._reference is None:
            return who
        sign = self._reference.watch()
        idle = self._reference.drifted and busy is not None and busy < BUSY
        self._idle = self._idle + 1 if idle else 0
        if self._idle >= _IDLE:
            self._reference.accept()
            self._idle, sign = 0, None
        return None if sign is None else f"{HIDDEN} ({sign})"

    def disturbed(
        self, before: str | None, key: str, launches: Sequence[Launch], windows: Sequence[Sequence[float]]
    ) -> str | None:
        """Who was at work on the GPU while something was timed, in words; None: nobody.

        Args:
            before: who was there when it began.
            key: of what was timed. By its own nature, too, samples may fall apart: then they do so again
                while the reference is calm.
            launches: of it. The first that is ever timed, the default as a rule, becomes the reference.
            windows: its samples, microseconds a pass.
        """
        if not self._on:
            return None
        who = before or self._machine.neighbours()
        if who is not None:
            return who
        if self._reference is None:
            self._reference = self._make(launches, min(map(min, windows)))
        share = max(map(slow_share, windows))
        if not share and self._reference.calm():
            return None
        who = self.now()
        if who is None and share > _UNSURE and key not in self._apart:
            self._apart.add(key)
            who = f"{HIDDEN} ({share:.0%} of the samples wait for it)"
        return who

    def close(self) -> None:
        """Forgets the reference: its weights are about to go."""
        self._apart.clear()
        if self._reference is not None:
            self._reference.close()
            self._reference = None

    def _make(self, launches: Sequence[Launch], pass_us: float) -> Reference:
        a_launch = max(1e-3, pass_us / len(launches))
        least = self._settings.min_sample_us
        few = launches[: max(1, round(2 * least / a_launch))]
        replay = self._machine.replay(few)
        return Reference(self._machine, replay, passes_a_sample(a_launch * len(few), least))
