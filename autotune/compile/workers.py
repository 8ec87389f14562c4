"""Processes that may hang, abort or eat memory without harming the run."""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, TypeVar

import pebble

from autotune.results import Failure

DEFAULT_MEMORY_LIMIT_BYTES = 8 << 30
_END_S = 5.0

T = TypeVar("T")


class Workers:
    """Spawned worker processes, each with a memory limit and a log of its own.

    A worker that takes too long or dies is replaced, and its task's future holds a `Failure`.
    """

    def __init__(self, count: int, *, memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES) -> None:
        self._logs = tempfile.TemporaryDirectory(prefix="autotune-workers-")
        self._pool = pebble.ProcessPool(
            max_workers=count,
            context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(self._logs.name, memory_limit_bytes, os.getpid()),
        )

    def run(
        self,
        function: Callable[..., T | Failure],
        job: tuple[Any, ...],
        *,
        time_limit_s: float,
        late: Failure,
        died: Callable[[pebble.ProcessExpired], Failure],
    ) -> "Future[T | Failure]":
        """Starts a task.

        Args:
            job: the function's arguments.
            late: what becomes of it when its time is up.
            died: what becomes of it when its process ends. An exception of its own stays one.
        """
        result: Future[T | Failure] = Future()

        def settle(task: "Future[T | Failure]") -> None:
            if task.cancelled():
                result.cancel()
                return
            error = task.exception()
            if error is None:
                result.set_result(task.result())
            elif isinstance(error, FutureTimeout):
                result.set_result(late)
            elif isinstance(error, pebble.ProcessExpired):
                result.set_result(died(error))
            else:
                result.set_exception(error)

        self._pool.schedule(function, args=job, timeout=time_limit_s).add_done_callback(settle)
        return result

    def log(self, pid: int | None) -> Path:
        """What a worker printed; there once it has started."""
        return Path(self._logs.name, f"{pid}.log")

    def close(self) -> None:
        """Ends all workers; what is under way is dropped."""
        # A worker that finds its pool gone while it starts prints a traceback; a killed one says nothing.
        for worker in list(self._pool._pool_manager.worker_manager.workers.values()):
            if not self.log(worker.pid).exists():
                worker.kill()
        self._pool.stop()  # type: ignore[no-untyped-call]
        # Workers end first. After an interrupt one of pebble's threads now and then misses its end and waits
        # for ever: it is a daemon, and nothing is lost when it is left waiting.
        ending = threading.Thread(target=self._pool.join, daemon=True)
        ending.start()
        ending.join(_END_S)
        self._logs.cleanup()


def _start(logs: str, memory_limit_bytes: int, driver: int) -> None:
    """Prepares a worker: a memory limit, its own log, and no life after the driver's."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    with contextlib.suppress(OSError, AttributeError):  # Linux only: PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != driver:
        os._exit(1)
    log = os.open(f"{logs}/{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
