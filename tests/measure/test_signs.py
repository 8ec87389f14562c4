"""The signs of others' work, at the marks from which they count, and the watch that goes by them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.measure import neighbours
from autotune.measure.contention import Reference, Watch, slow_share
from autotune.measure.neighbours import HIDDEN, Neighbours, Occupancy
from autotune.measure.settings import MeasureSettings
from autotune.protocol.runtime import ClockReading
from tests.measure.conftest import QUICK


def test_the_share_of_slow_samples_is_of_those_above_the_first_gap() -> None:
    assert slow_share([]) == 0.0
    assert slow_share([5.0]) == 0.0
    assert slow_share([100.0, 114.9]) == 0.0
    assert slow_share([100.0, 115.1]) == 0.5
    assert slow_share([300.0, 100.0, 101.0, 200.0]) == 0.5


# The reference.


class Pass:
    """A replay that takes so long as it is told, and the machine's clock."""

    def __init__(self, us: float = 100.0, mhz: int | None = 1980) -> None:
        self.us: float | Sequence[float] = us
        self.mhz = mhz
        self.asked: list[tuple[int, int]] = []
        self.closed = False

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        self.asked.append((samples, passes_a_sample))
        return [self.us] * samples if isinstance(self.us, float) else list(self.us)

    def clock(self) -> ClockReading:
        return ClockReading(self.mhz)

    def close(self) -> None:
        self.closed = True


def reference(source: Pass, step_s: float = 0.06) -> Reference:
    """A reference on a clock that advances `step_s` a look; its best is 100 us at 1980 MHz."""
    now = iter(range(1_000_000))
    made = Reference(source, source, 7, lambda: next(now) * step_s)  # type: ignore[arg-type]
    assert made.calm()
    return made


@pytest.mark.parametrize(
    ("us", "mhz", "calm"),
    [
        (106.0, 1980, True),
        (106.1, 1980, False),
        (94.0, 1980, True),  # faster than ever is the new best
        (110.0, 1890, True),  # what a lower clock explains
        (112.0, 1890, False),
        (110.0, None, False),
        (106.1, 2100, False),  # a higher clock excuses nothing, nor does it ask for more
        (106.0, 2100, True),
        ([100.0, 100.0, 100.0, 100.0, 116.0], 1980, False),
    ],
)
def test_a_short_look_is_calm_up_to_six_percent_beyond_what_the_clock_explains(
    us: Any, mhz: int | None, calm: bool
) -> None:
    source = Pass()
    made = reference(source)
    source.us, source.mhz = us, mhz
    assert made.calm() is calm
    assert source.asked == [(5, 7)] * 2


def test_what_was_fastest_once_is_what_is_held_against() -> None:
    source = Pass(mhz=None)
    made = reference(source)
    source.us = 90.0
    assert made.calm()
    source.us = 96.0
    assert not made.calm()
    made.close()
    assert source.closed


def test_a_longer_look_goes_by_its_second_half_which_lasts_a_quarter_of_a_second() -> None:
    source = Pass()
    made = reference(source)
    taken = iter([150.0, 150.0, *[100.0] * 20])

    def passes(samples: int, passes_a_sample: int) -> list[float]:
        source.asked.append((samples, passes_a_sample))
        return [next(taken)] * samples

    source.passes = passes  # type: ignore[method-assign]
    source.asked.clear()
    assert made.watch() is None
    assert len(source.asked) == 6  # two, and then a clock that advances 0.06 s


def test_a_longer_look_has_two_at_least_and_a_hundred_at_most() -> None:
    for step, looks in ((10.0, 2), (0.0, 100)):
        source = Pass()
        made = reference(source, step)
        source.asked.clear()
        made.watch()
        assert len(source.asked) == looks


def test_what_a_longer_look_sees_is_told_in_words() -> None:
    source = Pass()
    made = reference(source)
    source.us = 107.0
    assert made.watch() == "the default is 7% slower than before"
    source.us = [100.0, 100.0, 100.0, 200.0, 200.0]
    assert made.watch() == "40% of the default's own samples wait for it"
    source.us = 106.0
    assert made.watch() is None


def test_a_stray_sample_in_a_hundred_is_a_quiet_gpus() -> None:
    for stray, told in ((1, None), (3, "3% of the default's own samples wait for it")):
        source = Pass()
        made = reference(source, 0.0)  # a hundred looks, fifty late ones, of two samples each
        taken = iter([*[100.0] * (200 - stray), *[200.0] * stray])
        source.passes = lambda samples, passes, taken=taken: [next(taken), next(taken)]  # type: ignore[method-assign,misc]
        assert made.watch() == told


# The watch.


class Machine:
    """A machine that says who is there, and replays passes of 100 us a launch."""

    watched = True

    def __init__(self) -> None:
        self.who: str | None = None
        self.replayed: list[Any] = []
        self.us = 100.0
        self.worked: float | None = None

    def neighbours(self) -> str | None:
        return self.who

    def busy(self) -> float | None:
        return self.worked

    def clock(self) -> ClockReading:
        return ClockReading(1980)

    def replay(self, launches: Sequence[Any]) -> Pass:
        self.replayed.append(launches)
        made = Pass()
        made.passes = lambda samples, passes: [self.us] * samples  # type: ignore[method-assign]
        return made


@pytest.fixture
def machine() -> Machine:
    return Machine()


def watch(machine: Machine, **settings: Any) -> Watch:
    return Watch(machine, replace(QUICK, **settings))  # type: ignore[arg-type]


LAUNCHES = ["launch"] * 32
EVEN, APART = [[100.0] * 10], [[100.0] * 7 + [300.0] * 3]


def test_nothing_is_watched_where_others_were_asked_for_or_times_mean_nothing(machine: Machine) -> None:
    machine.who = "process 497"
    shared = watch(machine, shared_gpu=True)
    assert (shared.before(), shared.disturbed("process 497", "key", LAUNCHES, APART)) == (None, None)  # type: ignore[arg-type]
    machine.watched = False
    assert watch(machine).before() is None
    assert machine.replayed == []


def test_who_was_there_before_or_is_there_after_disturbed_it(machine: Machine) -> None:
    mine = watch(machine)
    assert mine.disturbed("before", "key", LAUNCHES, EVEN) == "before"  # type: ignore[arg-type]
    machine.who = "now"
    assert mine.before() == "now"
    assert mine.disturbed(None, "key", LAUNCHES, EVEN) == "now"  # type: ignore[arg-type]
    assert mine.now() == "now"
    assert machine.replayed == []  # what was timed beside others is no reference


def test_the_first_that_is_timed_becomes_the_reference_in_a_pass_of_twice_a_sample(machine: Machine) -> None:
    mine = watch(machine, min_sample_us=300.0)
    windows = [[3300.0, 3200.0], [3400.0]]  # 100 us a launch at the least
    assert mine.disturbed(None, "key", LAUNCHES, windows) is None  # type: ignore[arg-type]
    assert machine.replayed == [LAUNCHES[:6]]
    assert mine.disturbed(None, "other", LAUNCHES, EVEN) is None  # type: ignore[arg-type]
    assert len(machine.replayed) == 1
    mine.close()
    mine.disturbed(None, "key", LAUNCHES, [[1.0]])  # type: ignore[arg-type]
    assert machine.replayed[1:] == [LAUNCHES]  # never more than there are
    mine.close()
    mine.disturbed(None, "key", LAUNCHES, [[1e6]])  # type: ignore[arg-type]
    assert machine.replayed[2:] == [LAUNCHES[:1]]


def test_samples_that_fall_apart_are_others_work_once_and_then_the_kernels_own_nature(
    machine: Machine,
) -> None:
    mine = watch(machine)
    told = f"{HIDDEN} (30% of the samples wait for it)"
    assert mine.disturbed(None, "key", LAUNCHES, APART) == told  # type: ignore[arg-type]
    assert mine.disturbed(None, "key", LAUNCHES, APART) is None  # type: ignore[arg-type]
    assert mine.disturbed(None, "other", LAUNCHES, [*EVEN, *APART]) == told  # type: ignore[arg-type]
    few = [[100.0] * 8 + [300.0] * 2]
    assert mine.disturbed(None, "few", LAUNCHES, few) is None  # type: ignore[arg-type]
    quarter = [[100.0] * 6 + [300.0] * 2]
    assert mine.disturbed(None, "quarter", LAUNCHES, quarter) is None  # type: ignore[arg-type]
    mine.close()
    assert mine.disturbed(None, "key", LAUNCHES, APART) == told  # type: ignore[arg-type]


def test_a_window_without_a_gap_is_disturbed_where_the_reference_is(machine: Machine) -> None:
    mine = watch(machine)
    mine.disturbed(None, "key", LAUNCHES, EVEN)  # type: ignore[arg-type]
    machine.us = 120.0
    told = f"{HIDDEN} (the default is 20% slower than before)"
    assert mine.disturbed(None, "key", LAUNCHES, EVEN) == told  # type: ignore[arg-type]
    assert mine.now() == told
    machine.us = 100.0
    assert mine.now() is None


def test_a_slower_default_on_a_gpu_that_idles_while_it_is_waited_is_the_gpu_s_own(machine: Machine) -> None:
    mine = watch(machine)
    mine.disturbed(None, "key", LAUNCHES, EVEN)  # type: ignore[arg-type]
    machine.us = 107.0
    told = f"{HIDDEN} (the default is 7% slower than before)"
    for worked in (0.0, 0.0, 0.5, 0.0, None, 0.04, 0.0):  # never three waits in a row of an idle GPU
        machine.worked = worked
        assert mine.now() == told
    machine.worked = None
    assert mine.now() == told
    machine.worked = 0.0
    assert [mine.now() for _ in range(4)] == [told, told, None, None]
    assert mine.disturbed(None, "key", LAUNCHES, EVEN) is None  # type: ignore[arg-type]
    for machine.us in (100.0, 107.0):  # to and fro
        assert mine.disturbed(None, "key", LAUNCHES, EVEN) is None  # type: ignore[arg-type]
    machine.us = 114.5  # slower still
    assert mine.disturbed(None, "key", LAUNCHES, EVEN) == told  # type: ignore[arg-type]


def test_without_a_reference_only_the_driver_tells(machine: Machine) -> None:
    assert watch(machine).now() is None


# Who is on the GPU.

DRIVER, OWN, OTHER = 500, 501, 700


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes processes. This one is 501, below a driver 500."""
    monkeypatch.setattr(neighbours, "PROC", tmp_path)
    os_here = SimpleNamespace(getpid=lambda: OWN, getppid=lambda: DRIVER, readlink=neighbours.os.readlink)
    monkeypatch.setattr(neighbours, "os", os_here)

    def add(pid: int, parent: int, name: str = "python3", device: str = "", stat: str = "") -> None:
        folder = tmp_path / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        (folder / "stat").write_text(stat or f"{pid} ({name}) S {parent} 1 1")
        if device:
            (folder / "fd/3").symlink_to(device)

    add(DRIVER, 400)
    add(OWN, DRIVER)
    (tmp_path / "meminfo").touch()
    return add


def on(*pids: int, used: int | None = 0, busy: float | None = 0.0, **parts: int) -> Neighbours:
    processes = dict.fromkeys(pids, 0) | {int(name.removeprefix("p")): part for name, part in parts.items()}
    return Neighbours(lambda: Occupancy(processes, used, busy))


def test_a_name_with_parentheses_and_blanks_does_not_hide_a_parent(proc: Callable[..., None]) -> None:
    proc(OTHER, DRIVER, stat=f"{OTHER} (a (b) c) d) S {DRIVER} 1 1")
    assert on(OWN, OTHER).now() is None
    proc(701, 1, stat="701 (broken")
    assert on(OWN, 701).now() == "process 701 (python3)"


GPUS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dri/renderD128")


@pytest.mark.parametrize(
    ("device", "told"),
    [
        *[(device, "process 700 (python3)") for device in GPUS],
        *[(device, None) for device in ("/dev/null", "/tmp/dev/nvidia0", "/dev/dri/card0")],
    ],
)
def test_of_a_list_of_another_namespace_only_who_has_a_gpu_open_is_a_stranger(
    device: str, told: str | None, proc: Callable[..., None]
) -> None:
    proc(OTHER, 1, device=device)
    assert on(OTHER).now() == told


def test_somebody_elses_process_that_cannot_be_looked_into_may_have_a_gpu(
    proc: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    proc(OTHER, 1, device="/dev/null")

    def denied(_: object) -> str:
        raise PermissionError

    monkeypatch.setattr(neighbours.os, "readlink", denied)
    assert on(OTHER).now() == "process 700 (python3)"


def test_a_process_on_another_part_of_the_gpu_is_no_neighbour(proc: Callable[..., None]) -> None:
    proc(OTHER, 1)
    assert on(p501=1, p700=2).now() is None
    assert on(p501=1, p700=1).now() == "process 700 (python3)"


@pytest.mark.parametrize(("driver", "parent"), [(500, 400), (1, 0)])
def test_the_drivers_other_children_are_family_and_its_siblings_are_not(
    driver: int, parent: int, proc: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that is process 1 of its container is everybody's ancestor there."""
    monkeypatch.setattr(neighbours.os, "getppid", lambda: driver)
    if driver == 1:
        proc(1, 0)
    proc(600, driver)
    proc(601, 600)
    assert on(OWN, 600).now() is None
    assert (on(OWN, 601).now() is None) == (driver > 1)
    proc(602, 400)
    assert on(OWN, 602).now() == "process 602 (python3)"
    proc(603, 0, stat="603 (parent not told")
    assert on(OWN, 603).now() == "process 603 (python3)"
    assert on(OWN, driver).now() is None


def test_an_ancestor_is_family(proc: Callable[..., None]) -> None:
    proc(400, 300)
    proc(300, 1)
    assert on(OWN, 400, 300).now() is None


def test_memory_and_work_count_from_their_marks_on(proc: Callable[..., None]) -> None:
    assert on(used=100 << 20).before() is None
    assert on(used=(101 << 20)).before() == f"{HIDDEN} (101 MiB of its memory are in use)"
    assert on(used=2 << 40).before() == f"{HIDDEN} (2,097,152 MiB of its memory are in use)"
    assert on(busy=0.049).before() is None
    assert on(busy=0.05).before() == f"{HIDDEN} (it is busy 5% of the time)"


def test_mps_servers_do_nothing_by_themselves_before_either(proc: Callable[..., None]) -> None:
    proc(OTHER, 1, "nvidia-cuda-mps-server", device="/dev/nvidia0")
    assert on(OTHER).before() is None
    proc(701, 1, "my-nvidia-cuda-mps", device="/dev/nvidia0")
    assert on(OTHER, 701).before() == "process 701 (my-nvidia-cuda-mps)"


def test_one_that_is_on_the_gpu_already_asks_who_is_there_now(proc: Callable[..., None]) -> None:
    proc(OTHER, 1)
    assert on(OWN, OTHER, used=2 << 30).before() == "process 700 (python3)"
    assert on(OWN, used=2 << 30).before() is None


def test_who_cannot_be_named_is_told_as_such() -> None:
    assert HIDDEN == "what looks like the work of another process that this container does not show"


def test_nothing_told_is_nobody() -> None:
    assert Occupancy() == Occupancy({}, None, None)
    assert Neighbours(Occupancy).before() is None
    assert MeasureSettings().shared_gpu is False
