"""A pool of processes that may hang, abort, be killed or eat memory without harming the run."""

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from autotune.processes.spawning import Child, ChildDied, ChildLate
from autotune.results import Failure

DEFAULT_MEMORY_LIMIT_BYTES = 8 << 30
_END_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True)
class _Task(Generic[T]):
    batch: int
    result: "Future[T | Failure]"
    function: Callable[..., T | Failure]
    job: tuple[Any, ...]
    time_limit_s: float
    late: Failure
    died: Callable[[str], Failure]


class Workers:
    """Worker processes, each with a memory limit (None: none) and a log, started as they are needed.

    Of those that wait the one that has worked last takes the next task: what it needs is imported there, and
    a process that is never needed is never started.

    A worker that takes too long or dies is replaced, and its task's future holds a `Failure`. A task whose
    worker was killed by others is tried once more in a fresh one, and such second tries one after the other:
    what ate the memory may have been its neighbours.
    """

    def __init__(self, count: int, *, memory_limit_bytes: int | None = DEFAULT_MEMORY_LIMIT_BYTES) -> None:
        self._logs = tempfile.TemporaryDirectory(prefix="autotune-workers-")
        self._tasks: deque[_Task[Any]] = deque()
        self._idle: list[SimpleQueue[_Task[Any] | None]] = []  # of each thread that waits, the latest last
        self._handing = threading.Lock()
        self._alone = threading.Lock()
        self._closed = False
        self._batch = 0
        self._busy: set[Child] = set()
        self._children = [
            Child(Path(self._logs.name, f"{number}.log"), memory_limit_bytes=memory_limit_bytes)
            for number in range(count)
        ]
        self._threads = [
            threading.Thread(target=self._work, args=(child,), name="workers", daemon=True)
            for child in self._children
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self,
        function: Callable[..., T | Failure],
        job: tuple[Any, ...],
        *,
        time_limit_s: float,
        late: Failure,
        died: Callable[[str], Failure],
    ) -> "Future[T | Failure]":
        """Starts a task.

        Args:
            job: the function's arguments.
            late: what becomes of it when its time is up.
            died: what becomes of it when its process ends, told how in words. An exception of its own stays
                one.
        """
        result: Future[T | Failure] = Future()
        task = _Task(self._batch, result, function, job, time_limit_s, late, died)
        with self._handing:
            if self._idle:
                self._idle.pop().put(task)
            else:
                self._tasks.append(task)
        return result

    def drop(self) -> None:
        """Drops what is under way and what waits; processes that have nothing to do stay."""
        self._batch += 1
        for child in list(self._busy):
            child.interrupt()

    def close(self) -> None:
        """Ends all workers; what is under way is dropped."""
        with self._handing:
            self._closed = True
            for idle in self._idle:
                idle.put(None)
        for child in self._children:
            child.stop()
        end = time.monotonic() + _END_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._logs.cleanup()

    def _work(self, child: Child) -> None:
        """A thread: gives tasks to one process until the pool is closed."""
        mine: SimpleQueue[_Task[Any] | None] = SimpleQueue()
        while (task := self._next(mine)) is not None:
            child.interrupted = False
            self._busy.add(child)
            if self._dropped(task):
                task.result.cancel()
            elif task.result.set_running_or_notify_cancel():
                self._do(child, task)
            self._busy.discard(child)
        child.kill()

    def _next(self, mine: "SimpleQueue[_Task[Any] | None]") -> _Task[Any] | None:
        with self._handing:
            if self._tasks:
                return self._tasks.popleft()
            if self._closed:
                return None
            self._idle.append(mine)
        return mine.get()

    def _dropped(self, task: _Task[Any]) -> bool:
        return self._closed or task.batch < self._batch

    def _do(self, child: Child, task: _Task[Any]) -> None:
        def act() -> None:
            task.result.set_result(child.ask(task.function, task.job, task.time_limit_s))

        def again() -> None:
            with self._alone:
                try:
                    act()
                except ChildDied as second:
                    task.result.set_result(task.died(f"{second.how}; the second death, in a fresh process"))

        try:
            try:
                act()
            except ChildDied as death:
                if self._dropped(task):
                    raise CancelledError from death
                if death.from_outside:
                    again()
                else:
                    task.result.set_result(task.died(death.how))
        except ChildLate:
            task.result.set_result(task.late)
        except BaseException as error:  # noqa: BLE001  whoever waits is told
            task.result.set_exception(error)
