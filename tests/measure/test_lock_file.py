"""The lock file itself: where it is, what stands in it, and who is let in."""

import json
import os
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from autotune.measure import lock


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(lock.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


class GivenUp(threading.Event):
    """Given up after so many waits, each of which is written down."""

    def __init__(self, after: int = 1 << 30) -> None:
        super().__init__()
        self.after, self.waits = after, list[float | None]()

    def is_set(self) -> bool:
        return len(self.waits) >= self.after

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


def taken_by_another(gpu: str, **about: Any) -> int:
    """Another process's lock: flock keeps apart what was opened apart."""
    import fcntl

    path = lock.path_of(gpu)
    if about:
        path.write_text(json.dumps(about))
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def test_a_lock_lies_in_a_folder_of_the_machines_under_the_gpus_name(
    monkeypatch: pytest.MonkeyPatch, locks: Path
) -> None:
    assert lock.path_of("0000:1a:00.0") == locks / "autotune-0000-1a-00-0.lock"
    assert lock.FOLDER_VARIABLE == "AUTOTUNE_LOCKS"
    for unset in (
        lambda: monkeypatch.setenv("AUTOTUNE_LOCKS", ""),
        lambda: monkeypatch.delenv("AUTOTUNE_LOCKS"),
    ):
        unset()
        assert lock.path_of("GPU-5b") == Path("/tmp/autotune-GPU-5b.lock")


def test_who_takes_it_signs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lock.path_of("GPU-1").write_text("an older, longer note that is still in the file" * 9)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/autotune", "run", "--db", "a b.db"])
    monkeypatch.setattr(lock.time, "time", lambda: 1_700_000_000.5)
    assert lock.acquire("GPU-1", print, GivenUp())
    assert json.loads(lock.path_of("GPU-1").read_text()) == {
        "pid": os.getpid(),
        "command": "autotune run --db 'a b.db'",
        "since": 1_700_000_000.5,
    }
    lock.release("GPU-1")


def test_who_waits_is_told_once_for_whom_and_tries_twice_a_second() -> None:
    since = datetime(2026, 1, 2, 3, 4, 5).astimezone()
    file = taken_by_another("GPU-1", pid=497, command="autotune run", since=since.timestamp())
    said: list[str] = []
    given_up = GivenUp(after=3)
    assert not lock.acquire("GPU-1", said.append, given_up)
    assert said == ["waiting for the GPU: process 497 (autotune run) measures on it since 03:04:05"]
    assert given_up.waits == [0.5] * 3
    os.close(file)
    assert lock.acquire("GPU-1", said.append, GivenUp())
    lock.release("GPU-1")


def test_who_need_not_wait_is_told_nothing() -> None:
    file = taken_by_another("GPU-1")
    said: list[str] = []
    assert not lock.acquire("GPU-1", said.append, GivenUp(), wait=False)
    assert said == []
    os.close(file)


def test_who_has_given_up_takes_nothing() -> None:
    assert not lock.acquire("GPU-1", print, GivenUp(after=0))
    assert not lock.path_of("GPU-1").exists()


@pytest.mark.parametrize(
    "note", ["", "[1", "[]", "{}", '{"pid": 1, "command": "x", "since": 1e300}', '{"pid": 1, "since": 1}']
)
def test_a_note_that_cannot_be_read_names_nobody(note: str) -> None:
    file = taken_by_another("GPU-1")
    lock.path_of("GPU-1").write_text(note)
    said: list[str] = []
    lock.acquire("GPU-1", said.append, GivenUp(after=1))
    assert said == ["waiting for the GPU: another autotune measures on it"]
    os.close(file)


def test_a_lock_that_a_process_holds_twice_is_given_back_by_the_second_release() -> None:
    for _ in range(2):
        assert lock.acquire("GPU-1", print, GivenUp())
    held = lock._held["GPU-1"].file
    lock.release("GPU-1")
    os.fstat(held)
    lock.release("GPU-1")
    assert "GPU-1" not in lock._held
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held)


def test_a_file_of_somebody_elses_that_may_only_be_read_is_locked_without_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = lock.path_of("GPU-1")
    path.write_text("theirs")
    opened: list[int] = []
    really = os.open

    def reading_only(name: Any, flags: int, mode: int = 0o777) -> int:
        opened.append(flags)
        if flags & os.O_RDWR:
            raise PermissionError
        return really(name, flags, mode)

    monkeypatch.setattr(lock.os, "open", reading_only)
    assert lock.acquire("GPU-1", print, GivenUp())
    assert path.read_text() == "theirs"
    assert all(flags & os.O_CLOEXEC and flags & os.O_NOFOLLOW for flags in opened)
    assert len(opened) == 3
    lock.release("GPU-1")


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    lock.path_of("GPU-1").symlink_to(target)
    assert not lock.acquire("GPU-1", print, GivenUp())
    assert target.read_text() == "mine"


def test_one_that_was_there_keeps_its_mode_and_a_new_one_is_for_all_to_lock() -> None:
    path = lock.path_of("GPU-1")
    path.touch(0o600)
    for mode in (0o600, 0o666):
        umask = os.umask(0o077)
        assert lock.acquire("GPU-1", print, GivenUp())
        os.umask(umask)
        assert path.stat().st_mode & 0o777 == mode
        lock.release("GPU-1")
        path.unlink()
