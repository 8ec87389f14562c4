"""Ctrl-C, SIGTERM and SIGHUP: acknowledged at once, taken where nothing is half done, never lost."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from autotune.processes import interrupt
from tests.cli.helper import env, heed_signals


def come(signum: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), signum)


@pytest.fixture(autouse=True)
def python_handles_sigint() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_it_is_raised_where_it_is_looked_for() -> None:
    done = []

    def act() -> None:
        with interrupt.held_back():
            come()
            done.append("what was begun")
            interrupt.look()
            done.append("more")

    with pytest.raises(KeyboardInterrupt):
        act()
    assert done == ["what was begun"]


def test_it_is_acknowledged_before_anybody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        with interrupt.held_back():
            come()
            assert capfd.readouterr().err == "\nstopping…\n"

    with pytest.raises(KeyboardInterrupt):
        act()


def test_one_that_nobody_looked_for_is_raised_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), interrupt.held_back():
        come()


def test_afterwards_it_is_pythons_again() -> None:
    with interrupt.held_back():
        pass
    with pytest.raises(KeyboardInterrupt):
        come()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_nothing_is_held_back() -> None:
    def act() -> None:
        with interrupt.held_back():
            interrupt.look()

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_waits_for_what_never_ends_is_woken() -> None:
    never: Future[None] = Future()
    sender = threading.Timer(0.1, come)
    sender.start()
    with pytest.raises(KeyboardInterrupt), interrupt.held_back():
        interrupt.result_of(never)
    sender.join()


def test_a_wait_that_is_not_interrupted_is_an_ordinary_one() -> None:
    done: Future[int] = Future()
    done.set_result(3)
    never: Future[int] = Future()
    assert interrupt.result_of(done) == 3
    assert interrupt.wait_for([done, never], 0.0) == {done}
    assert interrupt.wait_for([done, never], first=True) == {done}


CHILD = """
import signal, sys, time
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
import autotune.__main__ as program
import autotune.cli.invoke
import autotune.cli.output
from pathlib import Path
from autotune.processes.spawning import children_print_to

def act():
    if sys.argv[1] == "starting":
        with children_print_to(Path("/dev/null")):
            wait()
    wait()
    return 0

def wait():
    print("ready", flush=True)
    # Not in one: a signal that comes just before a sleep is seen after it.
    for _ in range(600 if sys.argv[1] != "ignored" else 3):
        time.sleep(0.1)

autotune.cli.invoke.run = act
program.main()
"""


def start(how: str = "") -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, how],
        env=env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_each_ends_a_command_with_a_word_and_its_own_exit_code(signum: int, code: int) -> None:
    child = start()
    child.send_signal(signum)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (code, "\nstopping…\n")


def test_it_is_acknowledged_while_a_worker_starts_whose_words_go_elsewhere() -> None:
    child = start("starting")
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (143, "\nstopping…\n")


def test_what_is_ignored_as_under_nohup_stays_ignored() -> None:
    child = start("ignored")
    child.send_signal(signal.SIGHUP)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")


def test_it_is_taken_while_the_command_line_is_still_imported(tmp_path: Path) -> None:
    """A module that the program imports first sends it, and then waits to be ended."""
    (tmp_path / "typer.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n"
    )
    environment = env()
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "autotune", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (143, "\nstopping…\n")
