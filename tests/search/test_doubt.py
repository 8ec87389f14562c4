"""What the environment breaks is not stored as the candidates' own, and a run that cannot work stops."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.problem.layer import Problem, Stage
from autotune.protocol.backend import CompileRefused
from autotune.results import Compiled, Failure, StaticFacts, Status
from autotune.search.doubt import ALIKE
from autotune.space.config import Config
from tests.search.fakes import FakeEvaluator, FakePool, Journal, binary, make_driver, searches
from tests.spaces import KIMI

M4 = Problem(KIMI, 4)
Say = Callable[[int], Failure | None]
"""What becomes of the n-th compile; None: it succeeds."""


def run(folder: Path, say: Say, evaluator: FakeEvaluator | None = None, budget: int = 20) -> Journal:
    count = iter(range(1000))

    def answer(config: Config) -> Compiled | Failure:
        return say(next(count)) or Compiled(binary(config), StaticFacts(), 0.5)

    journal = Journal()
    tasks = searches(folder, [M4], budget=budget)
    driver = make_driver(tasks, FakePool(answer), evaluator or FakeEvaluator(lambda *_: 1.0), journal)
    try:
        driver.run()
    finally:
        run.journal = journal  # type: ignore[attr-defined]
    return journal


def refused(folder: Path, say: Say, evaluator: FakeEvaluator | None = None) -> str:
    with pytest.raises(UserError) as error:
        run(folder, say, evaluator)
    return str(error.value)


def failing(error: Exception) -> Failure:
    return Failure(Status.COMPILE_ERROR, str(CompileRefused.of(error)), 0.1)


def caused(error: Exception) -> Exception:
    """As a compiler wraps it."""
    outer = RuntimeError("at 1:0: compilation failed")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ModuleNotFoundError("No module named 'torch'"),
            "install torch in this environment, this platform's",
        ),
        (caused(ModuleNotFoundError("No module named 'numba.core'")), "install numba in this environment"),
        (PermissionError(13, "Permission denied", "/home/user/.triton"), "TRITON_CACHE_DIR"),
        (NotADirectoryError(20, "Not a directory", "/home/user/.triton"), "TRITON_CACHE_DIR"),
        (OSError(30, "Read-only file system"), "TRITON_CACHE_DIR"),
        (OSError(28, "No space left on device"), "free some space"),
        (FileNotFoundError(2, "No such file or directory", "ptxas"), "put that right"),
        (RuntimeError("Failed to find C compiler. Please specify"), "install a C compiler"),
    ],
)
def test_what_is_missing_on_the_machine_stops_the_run_with_its_remedy(
    error: Exception, says: str, tmp_path: Path
) -> None:
    sentence = refused(tmp_path, lambda n: failing(error))
    assert sentence.startswith("nothing can be compiled here (m4 stage1: ")
    assert says in sentence
    assert run.journal.trials == []  # type: ignore[attr-defined]


def test_a_default_that_does_not_compile_stops_the_run(tmp_path: Path) -> None:
    say = lambda n: Failure(Status.COMPILE_ERROR, "no such instruction") if n == 0 else None  # noqa: E731
    assert refused(tmp_path, say).startswith(
        "the default does not compile at m4 stage1 (no such instruction)"
    )
    assert run.journal.trials == []  # type: ignore[attr-defined]


def test_a_default_that_takes_too_long_does_not(tmp_path: Path) -> None:
    late = Failure(Status.COMPILE_TIMEOUT, "compiling took longer than 60 s")
    trials = run(tmp_path, lambda n: late if n == 0 else None).trials
    assert [trial.status for trial in trials].count(Status.COMPILE_TIMEOUT) == 1
    assert len(trials) == 20


def test_what_fails_alike_from_the_beginning_stops_the_run(tmp_path: Path) -> None:
    sentence = refused(tmp_path, lambda n: Failure(Status.COMPILE_TIMEOUT, f"took longer than {n} s"))
    assert f"{ALIKE} candidates so far (took longer than {ALIKE - 1} s): raise --compile-timeout" in sentence
    assert run.journal.trials == []  # type: ignore[attr-defined]


def test_failures_for_reasons_of_their_own_are_the_candidates(tmp_path: Path) -> None:
    words = "abcdefghijklmnopqrst"
    trials = run(tmp_path, lambda n: Failure(Status.COMPILE_TIMEOUT, words[n])).trials
    assert sorted(trial.reason or "" for trial in trials) == sorted(words)


def test_once_something_compiles_a_failure_is_the_candidates_own(tmp_path: Path) -> None:
    trials = run(tmp_path, lambda n: Failure(Status.COMPILE_ERROR, "no") if n else None).trials
    assert [trial.status for trial in trials].count(Status.COMPILE_ERROR) == 19


def test_a_full_disk_half_way_is_not_stored_and_ends_the_run_where_it_lasts(tmp_path: Path) -> None:
    full = failing(OSError(28, "No space left on device"))
    trials = run(tmp_path, lambda n: full if n == 5 else None).trials
    assert {trial.status for trial in trials} == {Status.OK}
    assert len(trials) == 19
    assert "free some space" in refused(tmp_path, lambda n: full if n >= 5 else None)
    assert len(run.journal.trials) == 5  # type: ignore[attr-defined]


def test_a_gpu_on_which_nothing_runs_stops_the_run(tmp_path: Path) -> None:
    broken = FakeEvaluator(lambda *_: Failure(Status.RUNTIME_ERROR, "CUDA error 719 at 0x7f"))
    assert "CUDA error 719" in refused(tmp_path, lambda n: None, broken)


def test_wrong_numbers_never_stop_it(tmp_path: Path) -> None:
    wrong = FakeEvaluator(lambda *_: Failure(Status.INCORRECT, "relative error 0.7", error=0.7))
    assert len(run(tmp_path, lambda n: None, wrong).trials) == 20


def test_when_time_is_up_nobody_waits_for_a_compile(tmp_path: Path) -> None:
    """One that never ends: the run would never end either."""

    class Stuck(FakePool):
        def submit(self, *arguments: Any) -> Future[Compiled | Failure]:
            return super().submit(*arguments) if not self.submitted else Future()

    journal, tasks = Journal(), searches(tmp_path, [M4])
    driver = make_driver(tasks, Stuck(), FakeEvaluator(lambda *_: 1.0), journal, timeout_s=0.05)
    assert not driver.run()
    assert len(journal.trials) == 1
    assert tasks[M4, Stage.STAGE1].best is not None
