"""The compile pool survives whatever a compiler does, and says what it was."""

from collections.abc import Iterator

import pytest

from autotune.compile.pool import CompilePool
from autotune.config import Config
from autotune.problem import Stage
from autotune.results import Compiled, Failure, Status
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
        ("abort", Status.COMPILE_ERROR, "signal SIGABRT): LLVM ERROR: cannot select"),
        ("exit", Status.COMPILE_ERROR, "signal SIGKILL"),
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
