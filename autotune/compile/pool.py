"""Compiles candidates in processes that may hang, abort or eat memory without harming the run."""

import time
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType

from autotune.compile.workers import DEFAULT_MEMORY_LIMIT_BYTES, Workers
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage
from autotune.protocol.backend import CompileRefused
from autotune.protocol.registry import load_backend
from autotune.results import Compiled, Failure, Status
from autotune.space.config import Config

DEFAULT_TIME_LIMIT_S = 60.0

Outcome = Compiled | Failure


class CompilePool:
    """A pool of compile workers for one backend and device; use it as a context manager.

    Every failure is a value: a candidate that the compiler refuses, that takes too long, or that kills its
    worker becomes a `Failure`, and the worker is replaced. A binary is compiled once, however often and
    for however many token counts it is asked for.

    Args:
        workers: how many, or those of an earlier pool, which outlive this one too.
    """

    def __init__(
        self,
        backend: str,
        device: Device,
        *,
        workers: int | Workers,
        time_limit_s: float = DEFAULT_TIME_LIMIT_S,
        memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
    ) -> None:
        self._backend = load_backend(backend)
        self._device = device
        self._time_limit_s = time_limit_s
        self._made: dict[str, Future[Outcome]] = {}
        self._lent = isinstance(workers, Workers)
        self._workers = (
            workers
            if isinstance(workers, Workers)
            else Workers(workers, memory_limit_bytes=memory_limit_bytes)
        )

    def __enter__(self) -> "CompilePool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers, unless they are another's; what is under way is dropped."""
        if self._lent:
            self._workers.drop()
        else:
            self._workers.close()

    def warm(self, layer: Layer, tokens: int, stage: Stage, count: int) -> None:
        """Starts some processes, which import what a compile needs while there is nothing to compile yet."""
        job = (self._backend.name, layer, tokens, stage, self._device)
        late = Failure(Status.COMPILE_TIMEOUT, "importing took too long", self._time_limit_s)
        for _ in range(count):
            self._workers.run(_import, job, time_limit_s=self._time_limit_s, late=late, died=_death)

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Outcome]:
        """Compiles a candidate, or gives the compile that is under way or done for the same binary."""
        key = self._backend.artefact_key(layer, tokens, stage, config)
        if key not in self._made:
            self._made[key] = self._start(layer, tokens, stage, config)
        return self._made[key]

    def _start(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Outcome]:
        job = (self._backend.name, layer, tokens, stage, config, self._device)
        reason = f"compiling took longer than {self._time_limit_s:g} s"
        late = Failure(Status.COMPILE_TIMEOUT, reason, self._time_limit_s)
        return self._workers.run(_compile, job, time_limit_s=self._time_limit_s, late=late, died=_death)


def _death(how: str) -> Failure:
    return Failure(Status.COMPILE_ERROR, f"the compiler {how}")


def _import(backend: str, layer: Layer, tokens: int, stage: Stage, device: Device) -> None:
    """A space asks the installed compiler for its options, and so imports what compiles."""
    with suppress(Exception):  # whoever compiles will be told
        load_backend(backend).space(layer, tokens, stage, device)


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
