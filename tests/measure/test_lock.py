"""One autotune at a time on a GPU: the second waits, and says for whom."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autotune.measure import lock
from autotune.measure.pool import Measurer
from tests.measure.conftest import FAKE, PROBLEM, QUICK

HOLDER = """
import sys, threading, time
from autotune.measure import lock
assert lock.acquire("GPU-1", print, threading.Event())
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(lock.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def holder() -> "subprocess.Popen[str]":
    """Another autotune that measures on the GPU."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "run", "--shape", "m4"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_waits_for_the_first_and_says_whom(
    holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the first ends: the lock dies with its process."""
    monkeypatch.setenv("FAKE_GPU", "GPU-1")
    said: list[str] = []
    with Measurer(FAKE, [PROBLEM], QUICK, said.append) as measurer:
        starting = measurer.start()
        while not said:
            time.sleep(0.05)
        assert not starting.done()
        holder.send_signal(signal.SIGKILL)
        starting.result(timeout=60)
        assert not _free("GPU-1")
    assert _free("GPU-1")
    assert said[0].startswith(f"waiting for the GPU: process {holder.pid} (autotune run --shape m4) measures")


def test_a_run_takes_its_gpus_in_the_order_of_their_names(holder: "subprocess.Popen[str]") -> None:
    """Whichever is asked first: two runs never hold what the other waits for."""
    said: list[str] = []
    order = lock.InOrder(2)
    with (
        Measurer(FAKE, [PROBLEM], QUICK, visible={"FAKE_GPU": "GPU-2"}, order=order) as later,
        Measurer(FAKE, [PROBLEM], QUICK, said.append, {"FAKE_GPU": "GPU-1"}, order) as first,
    ):
        starting = [measurer.start() for measurer in (later, first)]
        while not said:
            time.sleep(0.05)
        time.sleep(1.1)
        assert _free("GPU-2")
        assert not any(each.done() for each in starting)
        holder.kill()
        for each in starting:
            each.result(timeout=60)
        assert not _free("GPU-1")
        assert not _free("GPU-2")
        assert order.waited
    assert _free("GPU-2")


def test_a_gpu_that_cannot_be_asked_holds_no_other_up() -> None:
    order, never = lock.InOrder(3), threading.Event()
    for gpu in ("GPU-2", None, "GPU-1"):
        order.tell(gpu)
    for gpu in ("GPU-1", "GPU-2"):
        with order.turn(gpu, never):
            pass
    assert not order.waited


def test_closing_ends_the_waiting(holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GPU", "GPU-1")
    said: list[str] = []
    measurer = Measurer(FAKE, [PROBLEM], QUICK, said.append)
    measurer.start()
    while not said:
        time.sleep(0.05)
    start = time.monotonic()
    measurer.close()
    assert time.monotonic() - start < 5
    holder.kill()


def test_a_process_may_take_its_gpu_several_times_and_leaves_it_at_the_last(locks: Path) -> None:
    for _ in range(2):
        assert lock.acquire("GPU-1", print, threading.Event())
    lock.release("GPU-1")
    assert not _free("GPU-1")
    assert _free("GPU-2")
    lock.release("GPU-1")
    assert _free("GPU-1")


def test_the_lock_is_another_users_too(locks: Path) -> None:
    assert lock.acquire("0000:1a:00.0", print, threading.Event())
    lock.release("0000:1a:00.0")
    assert lock.path_of("0000:1a:00.0").stat().st_mode & 0o777 == 0o666


def test_without_a_place_for_locks_nobody_is_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lock.FOLDER_VARIABLE, "/proc/nowhere")
    assert not lock.acquire("GPU-1", print, threading.Event())


def test_an_unreadable_note_is_no_obstacle(locks: Path) -> None:
    lock.path_of("GPU-1").write_text("[1")
    file = os.open(lock.path_of("GPU-1"), os.O_RDONLY)
    assert lock._holder(file) == "another autotune measures on it"
    os.close(file)


def _free(gpu: str) -> bool:
    """As another process sees it."""
    code = f"""
import threading
from autotune.measure import lock
raise SystemExit(not lock.acquire({gpu!r}, print, threading.Event(), wait=False))
"""
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
