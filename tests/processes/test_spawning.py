"""Children: what they are started with, and processes that were started before anybody needed them."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.processes import spawning
from autotune.processes.spawning import Child, ChildDied, end_ahead, start_ahead

SOON_S = 20.0


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    yield
    end_ahead()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def imported(name: str) -> bool:
    return name in sys.modules


def say(text: str) -> int:
    print(text, flush=True)
    return os.getpid()


def test_a_child_takes_a_process_that_was_started_ahead_with_its_own_environment_and_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SET_BEFORE", "before")
    start_ahead(1, ("colorsys", "no_such_module"))
    monkeypatch.setenv("SET_AFTER", "after")
    (process, _), log = spawning._ahead[0], tmp_path / "log"
    child = Child(log, {"OWN": "own"}, ahead=True)
    try:
        assert child.ask(say, ("hello",), SOON_S) == process.pid
        assert log.read_text() == "hello\n"
        for name, value in (("SET_BEFORE", "before"), ("SET_AFTER", "after"), ("OWN", "own")):
            assert child.ask(variable, (name,), SOON_S) == value
        assert child.ask(imported, ("colorsys",), SOON_S)
        child.kill()
        assert child.ask(say, ("again",), SOON_S) != process.pid  # the next is its own
    finally:
        child.stop()


def test_one_that_died_while_it_waited_is_not_taken(tmp_path: Path) -> None:
    start_ahead(1, ())
    process, _ = spawning._ahead[0]
    process.kill()
    process.join()
    child = Child(tmp_path / "log", ahead=True)
    try:
        assert child.ask(say, ("hello",), SOON_S) not in (process.pid, os.getpid())
    finally:
        child.stop()


def test_other_children_leave_it_and_what_nobody_takes_ends(tmp_path: Path) -> None:
    start_ahead(2, ())
    first, second = (process for process, _ in spawning._ahead)
    child = Child(tmp_path / "log")
    try:
        assert child.ask(say, ("hello",), SOON_S) not in (first.pid, second.pid)
    finally:
        child.stop()
    end_ahead()
    assert not first.is_alive()
    assert not second.is_alive()


def test_a_child_that_cannot_write_its_log_says_so(tmp_path: Path) -> None:
    child = Child(tmp_path / "no folder" / "log")
    before = time.monotonic()
    with pytest.raises(ChildDied):
        child.ask(say, ("hello",), SOON_S)
    assert time.monotonic() - before < SOON_S
    child.stop()
