"""Checks candidates in parallel, in processes that may hang or eat memory without harming the run."""

from __future__ import annotations

import time
import warnings
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

from autotune.check.check import can_check, execute, require_checks
from autotune.check.executed import Executed
from autotune.compile.workers import DEFAULT_MEMORY_LIMIT_BYTES, Workers
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage
from autotune.protocol.backend import CompileRefused, Lists
from autotune.protocol.registry import load_backend
from autotune.results import Compiled, Failure, Status, Verdict
from autotune.space.config import Config

DEFAULT_TIME_LIMIT_S = 120.0  # the compile included


@dataclass(frozen=True)
class Checked:
    """A candidate that was compiled and executed.

    Attributes:
        executed: None: the execution did not end.
    """

    compiled: Compiled
    verdict: Verdict
    executed: Executed | None = None


class CheckPool:
    """A pool of workers that compile a candidate and check the binary; use it as a context manager.

    Compiles go through the compiler's own cache, so what the search has compiled costs nothing again. What
    takes too long or kills its worker becomes a `Failure`: no verdict.
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
        require_checks(backend)
        if not can_check(backend, device):
            raise UserError(
                f"{device.name} is {device.arch}: only gfx942 machine code can be executed here,"
                " e.g. --target offline:mi325x"
            )
        self._backend = load_backend(backend)
        self._device = device
        self._time_limit_s = time_limit_s
        self._made: dict[str, Future[Checked | Failure]] = {}
        self._workers = Workers(workers, memory_limit_bytes=memory_limit_bytes)

    def __enter__(self) -> CheckPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.close()

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Checked | Failure]:
        """Starts a check, or gives the one that is under way or done for the same binary."""
        key = self._backend.artefact_key(layer, tokens, stage, config)
        if key not in self._made:
            job = (self._backend.name, layer, tokens, stage, config, self._device)
            reason = f"the check took longer than {self._time_limit_s:g} s"
            late = Failure(Status.TIMEOUT, reason, self._time_limit_s)
            self._made[key] = self._workers.run(
                _check, job, time_limit_s=self._time_limit_s, late=late, died=_death
            )
        return self._made[key]


def _death(how: str) -> Failure:
    return Failure(Status.RUNTIME_ERROR, f"the check's process {how}")


def _check(
    backend: str, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device
) -> Checked | Failure:
    """Runs in a worker."""
    warnings.simplefilter("ignore")  # a compiler's remarks are not about the candidates
    family = load_backend(backend)
    assert isinstance(family, Lists)
    started = time.perf_counter()
    try:
        listing = family.listing(layer, tokens, stage, config, device)
    except CompileRefused as refused:
        return Failure(Status.COMPILE_ERROR, str(refused), time.perf_counter() - started)
    if not listing.text:
        reason = "needs more LDS than a workgroup has: there is no code"
        return Failure(Status.CONSTRAINT, reason, time.perf_counter() - started)
    verdict, executed = execute(backend, layer, tokens, stage, config, listing)
    return Checked(listing.compiled, verdict, executed)
