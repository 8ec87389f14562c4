"""When to start timing and when to stop: warm-up until settled, samples until precise."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from autotune.measure.settings import MeasureSettings
from autotune.protocol.runtime import Machine, Replay
from autotune.results import Sample
from autotune.statistics import relative_standard_error

FIRST = 3
"""Single passes that tell how long a sample should be, and whether the candidate is worth a window."""

CHUNK = 5
"""Samples taken together: the device is kept busy for their whole length, then asked for its clock."""

_LONG_US = 1000.0
"""A pass of this length needs no more than two samples."""


@dataclass(frozen=True)
class Timing:
    """A window of one subject.

    Attributes:
        settled: False: the clocks were still moving when the warm-up's time was over.
        ended: `precise`, `steady` (more samples no longer made it more precise), `time`, or `poor` (far
            behind the fastest, so that its first passes were enough).
    """

    samples: tuple[Sample, ...]
    settled: bool
    ended: str


def settled(chunks: Sequence[Sequence[float]], tolerance: float = 0.01) -> bool:
    """Whether the last three chunks' medians agree within `tolerance`.

    Three, because clocks drift for hundreds of milliseconds: two may agree by chance on the way.
    """
    if len(chunks) < 3:
        return False
    centres = [median(chunk) for chunk in chunks[-3:]]
    return max(centres) <= min(centres) * (1 + tolerance)


def stop_reason(values: Sequence[float], target_rse: float, min_samples: int) -> str | None:
    """Why a window may end; None: go on.

    `steady`: the error of all samples is no longer below that of the first half. For independent
    noise it would be 1 / sqrt(2) of it; where it is not, the noise is drift, and no number of samples
    averages it away.
    """
    if len(values) < min_samples:
        return None
    error = relative_standard_error(values)
    if error <= target_rse:
        return "precise"
    if len(values) >= 8 * min_samples and error >= relative_standard_error(values[: len(values) // 2]):
        return "steady"
    return None


def passes_a_sample(pass_us: float, min_sample_us: float) -> int:
    """Passes between two events, so that an event's resolution is small against a sample."""
    return max(1, math.ceil(min_sample_us / max(pass_us, 1e-3)))


def time_beside(
    base: Replay, replay: Replay, least_us: float, poor: float = math.inf
) -> tuple[list[float], list[float]]:
    """Times a pass between two looks at another one, so that a drift of both cancels.

    Args:
        least_us: microseconds that a sample lasts at least.
        poor: times the base's time from which one pass is enough.

    Returns:
        Microseconds a pass, of the base and of the other.
    """
    first = replay.passes(1, 1)[0]
    passes = passes_a_sample(first, least_us)
    # A long pass is many launches, whose mean needs fewer samples.
    looks = 2 if first < _LONG_US else 1
    around = base.passes(looks, passes)
    if first > poor * median(around):
        return around, [first]
    taken = replay.passes(2 * looks, passes)
    return around + base.passes(looks, passes), taken


def time_replay(
    machine: Machine,
    replay: Replay,
    launches: int,
    settings: MeasureSettings,
    fastest_us: float = math.inf,
    now: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Times a pass of `launches` launches; a sample is microseconds a launch.

    Args:
        fastest_us: of those that it competes with, microseconds a launch; infinity: it is the first.
    """
    first = replay.passes(FIRST, 1)
    poor = settings.poor * fastest_us * launches
    if min(first) > poor:
        # Once more: a clock that was still rising, or a limit, must not make a good candidate poor for good.
        first = replay.passes(FIRST, 1)
        clock = machine.clock()
        if min(first) > poor and not clock.throttled:
            seen = tuple(Sample(us / launches, clock.mhz, throttled=False) for us in first)
            return Timing(seen, settled=False, ended="poor")
    passes = passes_a_sample(median(first), settings.min_sample_us)
    warm: list[list[float]] = []
    start = now()
    while not (is_settled := settled(warm)) and now() - start < settings.warmup_s:
        warm.append(replay.passes(CHUNK, passes))
    samples: list[Sample] = []
    start = now()
    before = machine.clock()
    while True:
        taken = replay.passes(CHUNK, passes)
        after = machine.clock()
        throttled = before.throttled or after.throttled
        samples += [Sample(us / launches, after.mhz, throttled) for us in taken]
        before = after
        ended = stop_reason([s.us for s in samples], settings.target_rse, settings.min_samples)
        if ended is None and now() - start >= settings.window_s and len(samples) >= settings.min_samples:
            ended = "time"
        if ended is not None:
            return Timing(tuple(samples), is_settled, ended)
