"""Others on the GPU are noticed, with and without the driver's list of processes, and cost no time."""

import itertools
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.errors import UserError
from autotune.measure import neighbours as neighbours_module
from autotune.measure.contention import Reference, slow_share
from autotune.measure.neighbours import HIDDEN, Neighbours, Occupancy
from autotune.measure.pool import Measurer
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Stage
from autotune.protocol.runtime import ClockReading
from autotune.results import Finalist, Measurement
from tests.measure.conftest import FAKE, PROBLEM, QUICK
from tests.measure.fake_runtime import crowd, fake_config, with_stages

# Windows of stage 1 and 2 at m4 on an H100, microseconds a launch: alone, beside matrices all the time, and
# beside a process that works 1 ms of every 10.
ALONE = [22.14, 22.15, 22.20, 22.13, 22.41, 22.16, 22.14, 22.18, 22.14, 22.13]
BESIDE = [22.1, 101.2, 22.1, 22.1, 100.7, 22.1, 22.1, 22.1, 22.1, 100.5]
BESIDE_A_LITTLE = [21.94, 21.94, 65.6, 21.94, 21.94, 21.94, 21.94, 21.94, 21.94, 21.94]


def test_samples_of_a_disturbed_window_fall_apart() -> None:
    assert slow_share(ALONE) == 0
    assert slow_share(BESIDE) == pytest.approx(0.3)
    assert slow_share(BESIDE_A_LITTLE) == pytest.approx(0.1)
    assert slow_share([100 * (1 + 0.01 * step) for step in range(60)]) == 0  # a drift is one group


class Scripted:
    """A replay and its machine: samples from a function of how many were taken, the clock beside them."""

    def __init__(self, us: Callable[[int], float], mhz: Callable[[int], int] = lambda _: 1980) -> None:
        self._us, self._mhz, self._count = us, mhz, 0

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        self._count += samples
        return [self._us(self._count - samples + index) for index in range(samples)]

    def clock(self) -> ClockReading:
        return ClockReading(self._mhz(self._count))

    def close(self) -> None:
        pass


def reference(us: Callable[[int], float], mhz: Callable[[int], int] = lambda _: 1980) -> Reference:
    scripted = Scripted(us, mhz)
    ticking = itertools.count()
    return Reference(scripted, scripted, 1, now=lambda: next(ticking) / 100)  # type: ignore[arg-type]


def test_the_default_that_is_as_fast_as_ever_is_calm() -> None:
    quiet = reference(lambda n: 700 * (1 + 0.005 * (n % 3)))
    assert all(quiet.calm() for _ in range(20))
    assert quiet.watch() is None


def test_the_default_that_drifts_against_its_own_earlier_windows_is_seen() -> None:
    """All samples are slower alike: they do not fall apart."""
    slower = reference(lambda n: 700 if n < 50 else 800)
    assert all(slower.calm() for _ in range(10))
    assert not slower.calm()
    assert slower.watch() == "the default is 14% slower than before"


def test_a_lower_core_clock_is_no_other_process() -> None:
    throttled = reference(lambda n: 700 if n < 50 else 800, lambda n: 1980 if n < 55 else 1733)
    assert all(throttled.calm() for _ in range(11))
    assert throttled.watch() is None


def test_a_load_of_a_tenth_is_seen_by_a_longer_look_and_a_stray_sample_is_none() -> None:
    tenth = reference(lambda n: 2000 if n % 11 == 3 else 700)
    assert tenth.watch() == "9% of the default's own samples wait for it"
    stray = reference(lambda n: 2000 if n == 33 else 700)
    assert stray.watch() is None


# Through the worker, the gate and the pool: the driver's list shows nobody.


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def come(**what: object) -> None:
        for name, value in crowd(**what).items():  # type: ignore[arg-type]
            monkeypatch.setenv(name, value)

    return come


def windows(measurer: Measurer, count: int, us: float = 10.0) -> list[Measurement]:
    answers = [measurer.submit(PROBLEM, Stage.STAGE1, fake_config(us)).result() for _ in range(count)]
    assert all(isinstance(answer, Measurement) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Measurement)]


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_windows_beside_others_are_marked_until_they_are_gone(
    others: Callable[..., None], share: float
) -> None:
    """All samples slower alike, and a tenth of them apart; from after the first window on."""
    others(share=share, first=60, last=700)
    said: list[str] = []
    with Measurer(FAKE, [PROBLEM], QUICK, said.append) as measurer:
        answers = windows(measurer, 12)
    marked = [answer for answer in answers if answer.contended]
    assert answers[0].contended is None
    assert marked
    assert all(HIDDEN in (answer.contended or "") for answer in marked)
    assert answers[-1].contended is None
    assert all(answer.us == pytest.approx(10, rel=0.01) for answer in answers if not answer.contended)
    assert "is on this GPU too" in said[0]
    assert "--shared-gpu" in said[0]


def test_who_is_listed_is_named(others: Callable[..., None]) -> None:
    others(listed="process 497 (python3)", last=15)
    said: list[str] = []
    with Measurer(FAKE, [PROBLEM], QUICK, said.append) as measurer:
        first, *_, last = windows(measurer, 3)
    assert first.contended == "process 497 (python3)"
    assert last.contended is None
    assert said[0].startswith("process 497 (python3) is on this GPU too")


@pytest.mark.slow
def test_who_stays_ends_the_measuring_with_a_sentence(others: Callable[..., None]) -> None:
    others(listed="process 497 (python3)")
    with (
        Measurer(FAKE, [PROBLEM], replace(QUICK, patience_s=0.5), lambda _: None) as measurer,
        pytest.raises(UserError, match=r"process 497 \(python3\) is on this GPU too.*--shared-gpu"),
    ):
        windows(measurer, 3)


@pytest.mark.slow
def test_who_was_there_before_is_waited_for_before_anything_is_measured(others: Callable[..., None]) -> None:
    others(early=f"{HIDDEN} (2,258 MiB of its memory are in use)")
    with (
        Measurer(FAKE, [PROBLEM], replace(QUICK, patience_s=0.5), lambda _: None) as measurer,
        pytest.raises(UserError, match=r"does not show \(2,258 MiB.*--shared-gpu"),
    ):
        measurer.fingerprint()


def test_whoever_insists_measures_beside_others_and_the_conditions_say_so(
    others: Callable[..., None],
) -> None:
    others(early="process 497 (python3)", listed="process 497 (python3)", share=0.3)
    said: list[str] = []
    settings = replace(QUICK, shared_gpu=True)
    with Measurer(FAKE, [PROBLEM], settings, said.append) as measurer:
        (answer,) = windows(measurer, 1)
        assert answer.contended is None
        assert measurer.workload_key.endswith(";shared")
    assert said == ["measuring beside process 497 (python3): times are marked as those of a shared GPU"]
    assert MeasureSettings().key != replace(MeasureSettings(), shared_gpu=True).key


@pytest.mark.slow
def test_a_final_is_decided_by_undisturbed_rounds_alone(others: Callable[..., None]) -> None:
    """Others slow three of four samples for a while: taken as they are, the candidate would not win."""
    others(share=0.75, first=100, last=900)
    finalists = [
        Finalist("default", with_stages(fake_config(10))),
        Finalist("candidate", with_stages(fake_config(9.5))),
    ]
    with Measurer(FAKE, [PROBLEM], QUICK, lambda _: None) as measurer:
        final = measurer.confirm(PROBLEM, finalists)
    assert final.winner == 1
    assert final.gain == pytest.approx(0.05, abs=0.005)
    assert all(us["layer"] < 20.5 for one in final.rounds for us in one.us)
    assert re.search("[0-9]+ times? beside others (was|were) put aside", final.notes[-1])


@pytest.mark.slow
def test_a_comparison_that_stays_disturbed_gives_no_verdict(others: Callable[..., None]) -> None:
    others(share=0.1, first=30)
    a, b = fake_config(10), fake_config(9)
    with (
        Measurer(FAKE, [PROBLEM], replace(QUICK, patience_s=0.5), lambda _: None) as measurer,
        pytest.raises(UserError, match=HIDDEN),
    ):
        measurer.compare(PROBLEM, a, b, Stage.STAGE1)


def test_a_kernel_whose_samples_fall_apart_by_nature_is_measured() -> None:
    """The reference is calm beside it: a window that falls apart twice is its own doing."""
    with Measurer(FAKE, [PROBLEM], QUICK, lambda _: None) as measurer:
        windows(measurer, 1)
        uneven = fake_config(10, moods=2)
        first, second = (measurer.submit(PROBLEM, Stage.STAGE1, uneven).result() for _ in range(2))
    assert isinstance(first, Measurement)
    assert isinstance(second, Measurement)
    assert first.contended is not None
    assert second.contended is None


# What the driver lists.


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes processes that are seen here; this one descends from its driver, and that from a notebook."""
    monkeypatch.setattr(neighbours_module, "PROC", tmp_path)

    def add(pid: int, parent: int, name: str, *devices: str) -> None:
        folder = tmp_path / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        (folder / "stat").write_text(f"{pid} ({name}) S {parent} 1 1")
        for number, device in enumerate(devices):
            (folder / "fd" / str(number)).symlink_to(device)

    add(os.getpid(), os.getppid(), "worker")
    add(os.getppid(), 90_000_001, "autotune")
    add(90_000_001, 1, "notebook")
    return add


def seen(*pids: int, used: int | None = 0, busy: float | None = 0.0) -> Neighbours:
    return Neighbours(lambda: Occupancy(dict.fromkeys(pids, 0), used, busy))


def test_strangers_are_named_and_the_family_is_none(processes: Callable[..., None]) -> None:
    processes(90_000_002, os.getppid(), "sibling", "/dev/nvidia0")
    processes(90_000_003, 90_000_002, "grandchild", "/dev/nvidia0")
    family = (os.getpid(), os.getppid(), 90_000_001, 90_000_002, 90_000_003)
    assert seen(*family).now() is None
    processes(90_000_004, 1, "python3", "/dev/nvidia0")
    assert seen(*family, 90_000_004).now() == "process 90000004 (python3)"
    assert seen(90_000_004).before() == "process 90000004 (python3)"
    processes(90_000_005, 90_000_001, "matmul", "/dev/nvidia0")
    both = seen(*family, 90_000_004, 90_000_005).now()
    assert both == "processes 90000004 (python3), 90000005 (matmul)"


def test_a_process_that_this_container_does_not_show_is_told_of(processes: Callable[..., None]) -> None:
    assert seen(os.getpid(), 80_000_000).now() == "process 80000000 (of another container)"
    assert seen(80_000_000).before() == HIDDEN


def test_a_list_of_another_namespace_names_nobody_of_this_one(processes: Callable[..., None]) -> None:
    """The worker's own process is not in it under the number that it has here."""
    processes(90_000_006, 1, "bash")  # has that number by chance, and no GPU
    assert seen(90_000_006, 80_000_001).now() is None
    there = {80_000_002: 0}
    listed = Neighbours(lambda: Occupancy(there))
    assert listed.before() == HIDDEN
    there[80_000_003] = 0  # this process itself, as the host counts
    assert listed.now() == HIDDEN
    del there[80_000_002]
    assert listed.now() is None


def test_memory_and_work_before_the_own_start_are_somebodys(processes: Callable[..., None]) -> None:
    assert seen(used=2 << 20, busy=0.01).before() is None
    assert seen(used=2258 << 20).before() == f"{HIDDEN} (2,258 MiB of its memory are in use)"
    assert seen(busy=0.1).before() == f"{HIDDEN} (it is busy 10% of the time)"
    assert seen(used=None, busy=None).before() is None


def test_memory_may_be_that_of_an_ancestor(processes: Callable[..., None]) -> None:
    processes(90_000_007, 1, "x")
    (neighbours_module.PROC / "90000001" / "fd" / "0").symlink_to("/dev/nvidia0")
    assert seen(used=2258 << 20).before() is None


def test_memory_may_be_that_of_another_worker_of_this_driver(processes: Callable[..., None]) -> None:
    """Two measurers of one driver take turns: each finds the other's worker on the GPU."""
    processes(90_000_002, os.getppid(), "sibling", "/dev/nvidia0")
    assert seen(90_000_002, used=4354 << 20).before() is None  # the list speaks of what is seen here
    assert seen(used=4354 << 20).before() is None  # the list is empty
    assert seen(90_000_002, 80_000_000, used=4354 << 20).before() == HIDDEN


def test_another_worker_may_be_listed_under_the_host_s_number(processes: Callable[..., None]) -> None:
    processes(90_000_002, os.getppid(), "sibling", "/dev/nvidia0")
    there = {80_000_000: 0}
    listed = Neighbours(lambda: Occupancy(there, 4354 << 20))
    assert listed.before() is None
    there[80_000_001] = 0  # this process itself
    assert listed.now() is None
    two = Neighbours(lambda: Occupancy(there, 4354 << 20))
    assert two.before() == HIDDEN
    assert two.now() == HIDDEN
    del there[80_000_001]
    assert two.now() is None


def test_the_server_of_mps_does_nothing_by_itself(processes: Callable[..., None]) -> None:
    processes(90_000_008, 1, "nvidia-cuda-mps-server", "/dev/nvidia0")
    assert seen(os.getpid(), 90_000_008).now() is None
