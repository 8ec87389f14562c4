"""Warm until settled, sample until precise, and never below an event's resolution."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from autotune.measure.machine import CpuMachine
from autotune.measure.settings import MeasureSettings
from autotune.measure.timer import (
    CHUNK,
    FIRST,
    passes_a_sample,
    settled,
    stop_reason,
    time_beside,
    time_replay,
)
from autotune.protocol.runtime import ClockReading


class Scripted:
    """A replay whose n-th sample is `us(n)`."""

    method = "graph"

    def __init__(self, us: Callable[[int], float]) -> None:
        self._us, self.taken, self.passes_a_sample = us, 0, 0

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        self.passes_a_sample = passes_a_sample
        made = [self._us(self.taken + i) for i in range(samples)]
        self.taken += samples
        return made

    def close(self) -> None:
        pass


class Clocks(CpuMachine):
    """A machine with given readings."""

    def __init__(self, *readings: ClockReading) -> None:
        self._readings = itertools.chain(readings, itertools.repeat(readings[-1]))

    def clock(self) -> ClockReading:
        return next(self._readings)


def seconds() -> Callable[[], float]:
    """A clock that advances a millisecond a look."""
    ticks = itertools.count()
    return lambda: next(ticks) * 1e-3


STEADY = ClockReading(1980, throttled=False)


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        ([[100.0], [100.0]], False),
        ([[137.0], [100.2], [100.0], [100.4]], True),
        ([[100.0], [100.8], [101.6]], False),  # neighbours agree, but it is still on its way
    ],
)
def test_settled_when_three_chunks_agree(chunks: Sequence[Sequence[float]], says: bool) -> None:
    assert settled(chunks) is says


def test_samples_taken_while_the_clock_settles_do_not_count() -> None:
    replay = Scripted(lambda n: 1370.0 if n < 40 else 1520.0)
    timing = time_replay(Clocks(STEADY), replay, 1, MeasureSettings(warmup_s=1), now=seconds())
    assert timing.settled
    assert [s.us for s in timing.samples] == [1370.0] * len(timing.samples)

    rising = Scripted(lambda n: 1370.0 + 5 * min(n, 30))
    timing = time_replay(Clocks(STEADY), rising, 1, MeasureSettings(warmup_s=1), now=seconds())
    assert timing.settled
    assert {s.us for s in timing.samples} == {1520.0}


def test_a_clock_that_never_settles_ends_the_warm_up_at_its_limit_and_is_said() -> None:
    replay = Scripted(lambda n: 1000.0 * 1.02**n)
    timing = time_replay(
        Clocks(STEADY), replay, 1, MeasureSettings(warmup_s=0.01, window_s=0.01), now=seconds()
    )
    assert not timing.settled
    assert timing.ended in ("time", "steady")


def test_a_quiet_kernel_ends_as_soon_as_it_may() -> None:
    settings = MeasureSettings()
    timing = time_replay(Clocks(STEADY), Scripted(lambda n: 640.0), 32, settings, now=seconds())
    assert timing.ended == "precise"
    assert len(timing.samples) == settings.min_samples
    assert timing.samples[0].us == 20.0  # a launch, not a pass
    assert timing.samples[0].clock_mhz == 1980


def test_a_noisy_kernel_goes_on_until_it_is_precise() -> None:
    rng = np.random.default_rng(0)
    settings = MeasureSettings(target_rse=0.002, window_s=10)
    replay = Scripted(lambda n: 640 * (1 + 0.01 * rng.standard_normal()))
    timing = time_replay(Clocks(STEADY), replay, 32, settings, now=seconds())
    assert timing.ended == "precise"
    assert 20 <= len(timing.samples) <= 100


def test_a_window_ends_at_its_time_limit() -> None:
    rng = np.random.default_rng(0)
    settings = replace(MeasureSettings(), target_rse=1e-9, window_s=0.004)
    replay = Scripted(lambda n: 640 * (1 + 0.01 * rng.standard_normal()))
    timing = time_replay(Clocks(STEADY), replay, 32, settings, now=seconds())
    assert timing.ended == "time"
    assert len(timing.samples) >= settings.min_samples


def test_noise_that_no_longer_falls_ends_the_window() -> None:
    drifting = [100 + 0.1 * n for n in range(80)]
    assert stop_reason(drifting, 1e-6, 10) == "steady"
    assert stop_reason(drifting[:20], 1e-6, 10) is None
    rng = np.random.default_rng(0)
    independent = (100 * (1 + 0.05 * rng.standard_normal(80))).tolist()
    assert stop_reason(independent, 1e-6, 10) is None


def test_a_throttled_reading_marks_the_samples_around_it() -> None:
    clocks = Clocks(STEADY, STEADY, ClockReading(1410, throttled=True), STEADY, STEADY)
    settings = MeasureSettings(min_samples=4 * CHUNK)
    timing = time_replay(clocks, Scripted(lambda n: 640.0), 32, settings, now=seconds())
    marks = [s.throttled for s in timing.samples]
    assert marks == [False] * CHUNK + [True] * 2 * CHUNK + [False] * CHUNK


@pytest.mark.parametrize(("pass_us", "passes"), [(10.0, 30), (299.0, 2), (300.0, 1), (5000.0, 1)])
def test_a_sample_lasts_long_against_an_events_resolution(pass_us: float, passes: int) -> None:
    assert passes_a_sample(pass_us, 300.0) == passes
    replay = Scripted(lambda n: pass_us)
    time_replay(Clocks(STEADY), replay, 1, MeasureSettings(), now=seconds())
    assert replay.passes_a_sample == passes


def test_a_poor_candidate_costs_its_first_passes_alone() -> None:
    settings = MeasureSettings(poor=1.5)
    far = Scripted(lambda n: 320.0)
    timing = time_replay(Clocks(STEADY), far, 2, settings, fastest_us=100.0, now=seconds())
    assert timing.ended == "poor"
    assert [sample.us for sample in timing.samples] == [160.0] * FIRST
    assert far.taken == 2 * FIRST, "looked at twice"

    near = time_replay(
        Clocks(STEADY), Scripted(lambda n: 298.0), 2, settings, fastest_us=100.0, now=seconds()
    )
    assert near.ended == "precise"
    assert len(near.samples) == settings.min_samples


def test_one_slow_pass_makes_nobody_poor() -> None:
    once = Scripted(lambda n: 900.0 if n in (0, 1) else 100.0)
    timing = time_replay(Clocks(STEADY), once, 1, MeasureSettings(), fastest_us=99.0, now=seconds())
    assert timing.ended == "precise"


def test_a_clock_that_is_still_rising_or_limited_makes_nobody_poor() -> None:
    rising = Scripted(lambda n: 170.0 if n < FIRST else 100.0)
    timing = time_replay(Clocks(STEADY), rising, 1, MeasureSettings(), fastest_us=101.0, now=seconds())
    assert timing.ended == "precise"

    limited = Clocks(ClockReading(900, throttled=True), STEADY)
    timing = time_replay(
        limited, Scripted(lambda n: 170.0), 1, MeasureSettings(), fastest_us=101.0, now=seconds()
    )
    assert timing.ended == "precise"


def test_where_nothing_is_poor_all_get_a_window() -> None:
    settings = MeasureSettings(poor=math.inf)
    timing = time_replay(Clocks(STEADY), Scripted(lambda n: 1e6), 1, settings, fastest_us=1.0, now=seconds())
    assert timing.ended == "precise"


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        ([], False),
        ([[100.0]] * 3, True),
        ([[100.0], [100.0], [101.0]], True),  # at the tolerance
        ([[100.0], [100.0], [101.1]], False),
        ([[90.0], [100.0, 100.0, 150.0], [100.0, 60.0, 100.0], [100.0]], True),  # medians of the last three
    ],
)
def test_chunks_agree_within_a_hundredth(chunks: Sequence[Sequence[float]], says: bool) -> None:
    assert settled(chunks) is says


def test_a_window_may_end_at_its_least_samples_and_not_before() -> None:
    assert stop_reason([100.0] * 9, 0.005, 10) is None
    assert stop_reason([100.0] * 10, 0.005, 10) == "precise"
    assert stop_reason([100.0] * 10, 0.0, 10) == "precise"  # no error is as good as none was asked for


def test_drift_is_looked_for_from_eight_times_the_least_samples_on() -> None:
    drifting = [100 + 0.1 * n for n in range(80)]
    assert stop_reason(drifting[:79], 1e-6, 10) is None
    assert stop_reason(drifting, 1e-6, 10) == "steady"


@pytest.mark.parametrize(
    ("pass_us", "least", "passes"),
    [(0.0, 300.0, 300_000), (1e-4, 1.0, 1000), (301.0, 300.0, 1), (7.0, 0.0, 1)],
)
def test_a_pass_of_next_to_no_time_is_repeated_so_often_and_no_more(
    pass_us: float, least: float, passes: int
) -> None:
    assert passes_a_sample(pass_us, least) == passes


def beside(base_us: float, us: float, poor: float = math.inf) -> tuple[list[str], list[float], list[float]]:
    """What is timed beside what, in order, and the times."""
    asked: list[str] = []

    class Pass:
        method = "graph"

        def __init__(self, name: str, us: float) -> None:
            self._name, self._us = name, us

        def passes(self, samples: int, passes_a_sample: int) -> list[float]:
            asked.append(f"{samples} of {passes_a_sample} {self._name}")
            return [self._us] * samples

        def close(self) -> None:
            pass

    around, taken = time_beside(Pass("base", base_us), Pass("other", us), 300.0, poor)
    return asked, around, taken


def test_a_short_pass_has_four_samples_between_two_of_the_default_each_side() -> None:
    assert beside(100.0, 90.0) == (
        ["1 of 1 other", "2 of 4 base", "4 of 4 other", "2 of 4 base"],
        [100.0] * 4,
        [90.0] * 4,
    )


@pytest.mark.parametrize(("us", "looks"), [(999.0, 2), (1000.0, 1), (5000.0, 1)])
def test_a_long_pass_has_half_as_many(us: float, looks: int) -> None:
    asked, around, taken = beside(5000.0, us)
    assert (len(around), len(taken)) == (2 * looks, 2 * looks)
    assert asked[1] == f"{looks} of 1 base"


def test_a_pass_far_behind_the_default_is_not_timed_again() -> None:
    assert beside(100.0, 121.0, 1.2) == (["1 of 1 other", "2 of 3 base"], [100.0] * 2, [121.0])
    assert len(beside(100.0, 120.0, 1.2)[2]) == 4


def test_a_window_asks_for_chunks_of_so_many_passes_and_ends_at_its_time() -> None:
    asked: list[tuple[int, int]] = []

    class Pass(Scripted):
        def passes(self, samples: int, passes_a_sample: int) -> list[float]:
            asked.append((samples, passes_a_sample))
            return super().passes(samples, passes_a_sample)

    rng = np.random.default_rng(0)
    replay = Pass(lambda n: 100.0 * (1 + 0.2 * rng.random()))
    settings = replace(MeasureSettings(), target_rse=1e-9, window_s=0.0, warmup_s=0.0, min_samples=12)
    timing = time_replay(Clocks(STEADY), replay, 4, settings, now=seconds())
    assert asked[0] == (FIRST, 1)
    passes = asked[1][1]
    assert 3 <= passes <= 3 + 1  # 300 us in passes of 100 to 120 us
    assert asked[1:] == [(CHUNK, passes)] * 3  # no warm-up, and at least the samples that a window has
    assert (timing.ended, timing.settled, len(timing.samples)) == ("time", False, 15)
    assert all(25.0 <= sample.us <= 30.0 for sample in timing.samples)


def test_how_long_a_sample_is_goes_by_the_median_of_the_first_passes() -> None:
    replay = Scripted(lambda n: (100.0, 10_000.0, 100.0)[n] if n < FIRST else 100.0)
    time_replay(Clocks(STEADY), replay, 1, MeasureSettings(), now=seconds())
    assert replay.passes_a_sample == 3


def test_a_poor_candidate_has_the_clock_of_its_second_look() -> None:
    settings = MeasureSettings(poor=1.5)
    timing = time_replay(
        Clocks(ClockReading(1200)), Scripted(lambda n: 320.0), 2, settings, fastest_us=100.0, now=seconds()
    )
    assert not timing.settled
    assert {(sample.clock_mhz, sample.throttled) for sample in timing.samples} == {(1200, False)}
    at = time_replay(Clocks(STEADY), Scripted(lambda n: 300.0), 2, settings, fastest_us=100.0, now=seconds())
    assert at.ended == "precise"  # at the limit it is not poor
