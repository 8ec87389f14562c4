"""Compiles candidates in processes that may hang, abort or eat memory without harming the run."""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pebble

from autotune.backends import load_backend
from autotune.backends.base import CompileRefused
from autotune.config import Config
from autotune.devices import Device
from autotune.problem import Layer, Stage
from autotune.results import Compiled, Failure, Status

DEFAULT_TIME_LIMIT_S = 60.0
DEFAULT_MEMORY_LIMIT_BYTES = 8 << 30
_END_S = 5.0

Outcome = Compiled | Failure
T = TypeVar("T")


class CompilePool:
    """A pool of compile workers for one backend and device; use it as a context manager.

    Every failure is a value: a candidate that the compiler refuses, that takes too long, or that kills its
    worker becomes a `Failure`, and the worker is replaced. A binary is compiled once, however often and
    for however many token counts it is asked for.
    """

    def __init__(
        self,
        backend: str,
        device: Device,
        *,
        workers: int,
        time_limit_s: float = DEFAULT_TIME_LIMIT_S,
        memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
    ) -> None:
        self._backend = load_backend(backend)
        self._device = device
        self._time_limit_s = time_limit_s
        self._logs = tempfile.TemporaryDirectory(prefix="autotune-compile-")
        self._made: dict[str, Future[Outcome]] = {}
        self._pool = pebble.ProcessPool(
            max_workers=workers,
            context=multiprocessing.get_context("spawn"),
            initializer=start_worker,
            initargs=(self._logs.name, memory_limit_bytes, os.getpid()),
        )

    def __enter__(self) -> "CompilePool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_what_starts()
        self._pool.stop()  # type: ignore[no-untyped-call]
        # Workers end first. After an interrupt one of pebble's threads now and then misses its end and waits
        # for ever: it is a daemon, and nothing is lost when it is left waiting.
        ending = threading.Thread(target=self._pool.join, daemon=True)
        ending.start()
        ending.join(_END_S)
        self._logs.cleanup()

    def _kill_what_starts(self) -> None:
        """A worker that finds its pool gone while it starts prints a traceback; a killed one says nothing."""
        for worker in list(self._pool._pool_manager.worker_manager.workers.values()):
            if not Path(self._logs.name, f"{worker.pid}.log").exists():
                worker.kill()

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Outcome]:
        """Compiles a candidate, or gives the compile that is under way or done for the same binary."""
        key = self._backend.artefact_key(layer, tokens, stage, config)
        if key not in self._made:
            self._made[key] = self._start(layer, tokens, stage, config)
        return self._made[key]

    def _start(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Outcome]:
        job = (self._backend.name, layer, tokens, stage, config, self._device)
        worker = self._pool.schedule(_compile, args=job, timeout=self._time_limit_s)
        reason = f"compiling took longer than {self._time_limit_s:g} s"
        return as_value(worker, Failure(Status.COMPILE_TIMEOUT, reason, self._time_limit_s), self._death)

    def _death(self, error: pebble.ProcessExpired) -> Failure:
        """How a worker died, with the last line that its compiler printed."""
        code = error.exitcode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        log = Path(self._logs.name) / f"{error.pid}.log"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        said = f": {lines[-1][:300]}" if lines else ""
        return Failure(Status.COMPILE_ERROR, f"the compiler died ({how}){said}")


def as_value(
    worker: "Future[T | Failure]", late: Failure, died: Callable[[pebble.ProcessExpired], Failure]
) -> "Future[T | Failure]":
    """What becomes of a worker's task, without the exceptions that its process may be to blame for.

    Args:
        late: what it is when its time was up.
        died: what it is when its process ended. An exception of the task's own stays one.
    """
    result: Future[T | Failure] = Future()

    def settle(worker: "Future[T | Failure]") -> None:
        if worker.cancelled():
            result.cancel()
            return
        error = worker.exception()
        if error is None:
            result.set_result(worker.result())
        elif isinstance(error, FutureTimeout):
            result.set_result(late)
        elif isinstance(error, pebble.ProcessExpired):
            result.set_result(died(error))
        else:
            result.set_exception(error)

    worker.add_done_callback(settle)
    return result


def start_worker(logs: str, memory_limit_bytes: int, driver: int) -> None:
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


def _compile(
    backend: str, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device
) -> Outcome:
    started = time.perf_counter()
    try:
        return load_backend(backend).compile(layer, tokens, stage, config, device)
    except CompileRefused as error:
        return Failure(Status.COMPILE_ERROR, str(error), time.perf_counter() - started)
    except MemoryError:
        return Failure(Status.COMPILE_ERROR, "the compiler ran out of memory", time.perf_counter() - started)
