"""Tries a mutant: writes it into a copy of the tree and runs the tests that execute it, in a fork."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from covering import Covering
from mutants import ROOT, Mutant


def copy_tree(tree: Path) -> Path:
    """The files that git knows of or would, in a place of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, tree / name
        if source.is_file() and (not target.exists() or target.read_bytes() != source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            _forget(target)
    return tree


def _forget(path: Path) -> None:
    """Compiled code of a file: its time stamp is too coarse to tell two mutants apart."""
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def try_one(mutant: Mutant, tree: Path, covering: Covering, sound: dict[str, bool]) -> tuple[str, str]:
    """What became of a mutant, and which test noticed it.

    Args:
        sound: tests that noticed a mutant so far, and whether they pass on the unchanged tree; added to.

    Returns:
        `killed`, `timeout` (a test would have noticed), `survived` or `untested`; and the test, "" of none.
    """
    target = tree / mutant.path
    original = target.read_text()
    while True:
        tests = [name for name in covering.tests(mutant) if sound.get(name, True)]
        if not tests:
            return "untested", ""
        target.write_text(mutant.text)
        _forget(target)
        try:
            outcome, by = run_tests(tree, tests, covering.seconds)
        finally:
            target.write_text(original)
            _forget(target)
        if by and by not in sound:
            sound[by] = run_tests(tree, [by], covering.seconds)[0] == "survived"
        if not by or sound[by]:
            return outcome, by


def run_tests(tree: Path, tests: Sequence[str], seconds: Mapping[str, float]) -> tuple[str, str]:
    """Runs tests in a fork of this process; see `try_one`."""
    mark = tree.with_suffix(".failed")
    mark.unlink(missing_ok=True)
    # A test's own seconds, many times over, for a machine that does other things as well.
    limit_s = 30.0 + 10 * sum(seconds[name] for name in tests)
    child = os.fork()
    if child == 0:
        _test(tree, tests, seconds, mark)
    try:
        deadline = time.monotonic() + limit_s
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "timeout", ""
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # workers that a failed test left
    by = mark.read_text() if mark.exists() else ""
    return "survived" if os.waitstatus_to_exitcode(done[1]) == 0 else "killed", by


class First:
    """A pytest plugin that writes down which test failed first, if it can be told."""

    def __init__(self, mark: Path, tests: Sequence[str]) -> None:
        self._mark, self._tests = mark, frozenset(tests)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self._mark.exists() and report.nodeid in self._tests:
            self._mark.write_text(report.nodeid)


def _batches(tests: Sequence[str], seconds: Mapping[str, float]) -> Iterator[list[str]]:
    """The tests in turns, each several times as long as the last: a file is loaded when it is needed."""
    batch: list[str] = []
    most = 0.5
    for name in tests:
        batch.append(name)
        if sum(seconds[each] for each in batch) > most:
            yield batch
            batch, most = [], 4 * most
    if batch:
        yield batch


def _test(tree: Path, tests: Sequence[str], seconds: Mapping[str, float], mark: Path) -> None:
    """Runs the tests in this process, which is a fork, and ends it with pytest's status."""
    import pytest
    from hypothesis import HealthCheck, settings

    os.setsid()
    os.chdir(tree)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)
    # A spawned worker would import the main module, which is this script.
    sys.modules["__main__"] = types.ModuleType("__main__")
    # A loaded machine must not kill a mutant, nor luck.
    lenient = [HealthCheck.too_slow]
    settings.register_profile(
        "mutation", deadline=None, derandomize=True, database=None, suppress_health_check=lenient
    )
    status = 3
    try:
        for batch in _batches(tests, seconds):
            limit = 30 + 10 * max(seconds[name] for name in batch)
            options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:cov", f"--timeout={limit}"]
            options += ["--hypothesis-profile=mutation", f"--basetemp={tree.with_suffix('.tmp')}"]
            status = int(pytest.main([*options, *batch], plugins=[First(mark, batch)]))
            if status:
                break
    finally:
        os._exit(status)
