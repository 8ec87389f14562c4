"""Ctrl-C is held back to where nothing is half done, and never lost."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from autotune.search.interrupt import held_back


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def python_handles_sigint() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_it_is_raised_where_it_is_looked_for() -> None:
    done = []

    def act() -> None:
        with held_back() as look:
            interrupt()
            done.append("what was begun")
            look()
            done.append("more")

    with pytest.raises(KeyboardInterrupt):
        act()
    assert done == ["what was begun"]


def test_one_that_nobody_looked_for_is_raised_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), held_back():
        interrupt()


def test_afterwards_it_is_pythons_again() -> None:
    with held_back():
        pass
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_in_another_thread_nothing_is_held_back() -> None:
    def act() -> None:
        with held_back() as look:
            look()

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
