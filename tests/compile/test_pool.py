"""The compile pool survives whatever a compiler does, and says what it was."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from autotune.compile.pool import CompilePool
from autotune.compile.workers import Workers
from autotune.problem.layer import Stage
from autotune.results import Compiled, Failure, Status
from autotune.space.config import Config
from tests.compile.fakes import NAME
from tests.spaces import KIMI, MI325X

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompilePool]:
    patch = pytest.MonkeyPatch()
    patch.setenv("FAULTY_SPACES", str(tmp_path_factory.mktemp("spaces")))
    with CompilePool(NAME, MI325X, workers=2, time_limit_s=2.0) as made:
        yield made
    patch.undo()


def _outcome(pool: CompilePool, fault: str, width: int = 1) -> Compiled | Failure:
    config = Config({"tile_m": 16, "width": width, "fault": fault})
    return pool.submit(KIMI, 4, Stage.STAGE1, config).result(timeout=60)


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("refuse", Status.COMPILE_ERROR, "the tile does not fit"),
        ("hang", Status.COMPILE_TIMEOUT, "longer than 2 s"),
        ("abort", Status.COMPILE_ERROR, "was killed by SIGABRT: LLVM ERROR: cannot select"),
        ("exit", Status.COMPILE_ERROR, "was killed by SIGKILL; the second death"),
        ("memory", Status.COMPILE_ERROR, "out of memory"),
    ],
)
def test_each_failure_is_one_value_and_the_pool_goes_on(
    pool: CompilePool, fault: str, status: Status, reason: str
) -> None:
    failure = _outcome(pool, fault)
    assert isinstance(failure, Failure)
    assert failure.status is status
    assert reason in failure.reason
    assert isinstance(_outcome(pool, "none", width=hash(fault) % 8 + 1), Compiled)


def test_a_compile_whose_process_was_killed_is_tried_once_more(pool: CompilePool) -> None:
    assert isinstance(_outcome(pool, "killed"), Compiled)


def test_killing_all_children_costs_no_candidate_and_prints_nothing(tmp_path: Path) -> None:
    """Compile workers while they start, wait and compile, and the resource tracker."""
    script = """
        import os, signal, sys, time
        from pathlib import Path
        from autotune.compile.pool import CompilePool
        from autotune.space.config import Config
        from autotune.problem.layer import Stage
        from autotune.results import Compiled
        from tests.compile.fakes import NAME
        from tests.spaces import KIMI, MI325X

        if __name__ == "__main__":
            with CompilePool(NAME, MI325X, workers=2, time_limit_s=30.0) as pool:
                def outcomes(fault):
                    configs = [Config({"tile_m": 16, "width": w, "fault": fault}) for w in range(1, 5)]
                    return [pool.submit(KIMI, 4, Stage.STAGE1, config) for config in configs]
                futures = outcomes("slow")
                for wait in (0.05, 1.0):
                    time.sleep(wait)
                    for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
                        os.kill(int(pid), signal.SIGKILL)
                print([type(future.result()).__name__ for future in futures])
                print([type(future.result()).__name__ for future in outcomes("none")])
        """
    file = tmp_path / "killing.py"
    file.write_text(textwrap.dedent(script))
    environment = {**os.environ, "FAULTY_SPACES": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stderr == ""
    assert done.stdout.count("Compiled") == 8
    assert done.returncode == 0


def test_a_mistake_of_ours_is_not_taken_for_the_candidates(pool: CompilePool) -> None:
    with pytest.raises(KeyError, match="a mistake of ours"):
        _outcome(pool, "bug")


def test_one_binary_is_compiled_once(pool: CompilePool) -> None:
    config = Config({"tile_m": 32, "width": 1, "fault": "none"})
    assert pool.submit(KIMI, 4, Stage.STAGE1, config) is pool.submit(KIMI, 8, Stage.STAGE1, config)
    assert pool.submit(KIMI, 4, Stage.STAGE1, config) is not pool.submit(KIMI, 4, Stage.STAGE2, config)


def test_a_hang_leaves_the_other_worker_at_work(pool: CompilePool) -> None:
    hung = pool.submit(KIMI, 4, Stage.STAGE2, Config({"tile_m": 16, "width": 1, "fault": "hang"}))
    quick = [
        pool.submit(KIMI, 4, Stage.STAGE2, Config({"tile_m": 16, "width": w, "fault": "none"}))
        for w in range(1, 9)
    ]
    assert all(isinstance(future.result(timeout=30), Compiled) for future in quick)
    assert isinstance(hung.result(timeout=30), Failure)


def test_what_can_be_done_by_a_process_that_is_there_starts_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first compile in a process takes three times as long: it imports the compiler."""
    monkeypatch.setenv("FAULTY_SPACES", str(tmp_path))
    lent = Workers(4)
    with CompilePool(NAME, MI325X, workers=lent) as pool:
        pool.warm(KIMI, 4, Stage.STAGE1, 2)
        for width in range(1, 9):
            while len(lent._idle) < 4 or not any(child.started for child in lent._children):
                time.sleep(0.01)
            assert isinstance(_outcome(pool, "none", width), Compiled)
        assert sum(child.started for child in lent._children) == 2
    lent.close()


def test_processes_outlive_a_pool_that_they_are_lent_to_and_drop_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTY_SPACES", str(tmp_path))
    lent = Workers(2)
    with CompilePool(NAME, MI325X, workers=lent, time_limit_s=60.0) as first:
        assert isinstance(_outcome(first, "none"), Compiled)
        pids = {child.pid for child in lent._children if child.started}
        hangs = Config({"tile_m": 16, "width": 1, "fault": "hang"})
        left = [first.submit(KIMI, 4, stage, hangs.replaced(width=w)) for stage in Stage for w in (1, 2)]
        while sum(future.running() for future in left) < 2:
            time.sleep(0.01)
    with CompilePool(NAME, MI325X, workers=lent, time_limit_s=60.0) as second:
        assert isinstance(_outcome(second, "none"), Compiled)
        for future in left:
            with pytest.raises(CancelledError):
                future.result(timeout=30)
        assert pids.isdisjoint(child.pid for child in lent._children)
        pids = {child.pid for child in lent._children if child.started}
    with CompilePool(NAME, MI325X, workers=lent) as third:
        assert isinstance(_outcome(third, "none"), Compiled)
        assert pids <= {child.pid for child in lent._children}  # which had nothing to do
    lent.close()
