"""Keeps what starts slowly from one run to the next of one process, as a plan's entries are.

Those are the compile processes, each of which has imported a compiler, and the measure worker, which has
imported torch and has a context on the GPU. A run finds them as a fresh start leaves them: the worker loads
its layer anew, and what another run compiled is not asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from autotune.compile.pool import CompilePool
from autotune.compile.workers import Workers
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem
from autotune.protocol.backend import Backend
from autotune.search.live import LiveJudge
from autotune.tuning.context import RunRequest


class _Kept:
    """What is kept, with what it was made for."""

    def __init__(self) -> None:
        self.workers: Workers | None = None
        self.workers_of: Any = None
        self.judge: LiveJudge | None = None
        self.judge_of: Any = None

    def end_workers(self) -> None:
        if self.workers is not None:
            self.workers.close()
        self.workers = None

    def end_judge(self) -> None:
        if self.judge is not None:
            self.judge.close()
        self.judge = None


_kept: _Kept | None = None


@contextmanager
def keeping() -> Iterator[None]:
    """Runs within it hand on what starts slowly; it ends with the block."""
    global _kept
    _kept = kept = _Kept()
    try:
        yield
    finally:
        _kept = None
        kept.end_judge()
        kept.end_workers()


@contextmanager
def compile_pool(request: RunRequest, backend: Backend) -> Iterator[CompilePool]:
    """The compile pool of a run, on processes of an earlier one where they are kept."""
    workers: int | Workers = request.workers
    if _kept is not None:
        # Processes that have imported kernels as they were before a change of theirs are of no use.
        made_for = request.workers, backend.name, backend.source_digest()
        if _kept.workers_of != made_for:
            _kept.end_workers()
        if _kept.workers is None:
            _kept.workers, _kept.workers_of = Workers(request.workers), made_for
        workers = _kept.workers
    pool = CompilePool(
        backend.name, request.target.device, workers=workers, time_limit_s=request.compile_timeout_s
    )
    with pool:
        yield pool


@contextmanager
def live_judge(
    backend: Backend, problems: Sequence[Problem], settings: MeasureSettings, say: Callable[[str], None]
) -> Iterator[LiveJudge]:
    """The judge of a run on one GPU, with the worker of an earlier one where it is kept.

    After an error nothing is kept: the next run starts a worker of its own.
    """
    if _kept is None:
        with LiveJudge(backend, problems, settings, say) as judge:
            yield judge
        return
    made_for = backend.name, backend.source_digest(), settings
    if _kept.judge_of != made_for:
        _kept.end_judge()
    if _kept.judge is None:
        judge = LiveJudge(backend, problems, settings, say).__enter__()
    else:
        judge = _kept.judge
        judge.renew(problems, say)
    _kept.judge = None
    try:
        yield judge
    except BaseException:
        judge.close()
        raise
    _kept.judge, _kept.judge_of = judge, made_for
