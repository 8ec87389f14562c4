"""One worker process as the driver sees it: started, killed when it hangs, replaced when it breaks."""

import logging
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from autotune.errors import UserError
from autotune.measure import requests
from autotune.measure.settings import MeasureSettings
from autotune.problem import Layer, Problem
from autotune.results import Failure, Status

log = logging.getLogger(__name__)
T = TypeVar("T")

RECOVER_TIMEOUT_S = 20.0


class WorkerProcess:
    """A worker with its own process environment.

    Not for use by several threads at once, except `stop`.

    Args:
        backend: see `runtime.load_runtime`.
        problems: all that it will be asked about, so that memory is planned once.
    """

    def __init__(
        self,
        backend: str,
        problems: "tuple[Problem, ...]",
        settings: MeasureSettings,
        environment: Mapping[str, str],
    ) -> None:
        self._backend, self._problems, self._settings = backend, problems, settings
        self._environment = dict(environment)
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._layer: Layer | None = None
        self._stopped = False
        self._logs = tempfile.TemporaryDirectory(prefix="autotune-measure-")
        self._log = Path(self._logs.name, "worker.log")
        self._log.touch()
        self.restarts = 0

    def prepare(self, layer: Layer) -> Any:
        """Starts the process if need be and loads a layer.

        Returns:
            The `Fingerprint`, or the `Failure` of a worker that cannot be made ready.

        Raises:
            UserError: of the worker.
        """
        problems = tuple(problem for problem in self._problems if problem.layer == layer)
        answer = self._ask(
            requests.prepare,
            self._backend,
            self._settings,
            layer,
            problems,
            timeout=self._settings.prepare_timeout_s,
        )
        if isinstance(answer, Failure):
            self._kill()
            return Failure(
                answer.status, f"the worker could not be made ready: {answer.reason}", answer.seconds
            )
        self._layer = layer
        return answer

    def call(self, layer: Layer, function: "Callable[..., T | Failure]", *arguments: Any) -> "T | Failure":
        """Asks the worker, with `layer` loaded. Whatever a candidate does there comes back as a `Failure`.

        Raises:
            UserError: of the worker.
        """
        if self._process is not None and not self._process.is_alive():
            self._kill()  # from outside, while it was idle: no candidate is to blame
        if self._layer != layer:
            ready = self.prepare(layer)
            if isinstance(ready, Failure):
                return ready
        answer = self._ask(function, *arguments, timeout=self._settings.timeout_s)
        if isinstance(answer, Failure) and self._process is not None:
            broken = self._ask(requests.recover, timeout=RECOVER_TIMEOUT_S)
            if broken is not None:
                log.info("worker replaced after %s", broken)
                self._kill()
        result: T | Failure = answer
        return result

    def stop(self) -> None:
        """Kills the process for good; a request under way, of another thread, comes back as a `Failure`."""
        self._stopped = True
        if process := self._process:
            process.kill()
        self._logs.cleanup()

    def _ask(self, function: Callable[..., Any], *arguments: Any, timeout: float) -> Any:
        """The answer, or a `Failure` when the process hung or died, after which it is gone."""
        start = time.perf_counter()

        def failure(status: Status, reason: str) -> Failure:
            if self._stopped:
                reason = "the measurer was closed"
            return Failure(status, reason, time.perf_counter() - start)

        if self._stopped:
            return failure(Status.RUNTIME_ERROR, "")
        connection = self._connection or self._start()
        logged = 0
        try:
            logged = self._log.stat().st_size
            connection.send((function, arguments))
            if not connection.poll(timeout):
                self._kill()
                return failure(
                    Status.TIMEOUT, f"no answer within {timeout:g} s: a hang; the worker was killed"
                )
            answer = connection.recv()
        except (EOFError, OSError):  # its end of the pipe closed with it
            exitcode = self._kill()
            said = self._log.read_bytes()[logged:] if self._log.exists() else b""
            return failure(Status.RUNTIME_ERROR, _death(exitcode, said))
        if isinstance(answer, UserError):
            raise answer
        return answer

    def _start(self) -> Connection:
        # Spawned, not forked: a forked child would inherit threads' locks, and could not open the device.
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        arguments = (theirs, self._environment, str(self._log), os.getpid())
        process = context.Process(target=requests.serve, args=arguments, daemon=True)
        process.start()
        self._process = process
        theirs.close()  # or its death would not close the pipe
        self._connection = mine
        if self._stopped:  # by another thread, which saw no process yet
            process.kill()
        return mine

    def _kill(self) -> int:
        """Makes sure that the process is gone; its exit code, negative for a signal."""
        process, connection = self._process, self._connection
        self._process, self._connection, self._layer = None, None, None
        if process is None or connection is None:
            return 0
        # What died by itself has a moment to say how.
        process.join(timeout=0.5)
        process.kill()
        process.join()
        connection.close()
        self.restarts += not self._stopped
        return process.exitcode or 0


def _death(exitcode: int, said: bytes) -> str:
    """How a worker died, with its last words. A negative exit code is a signal's number."""
    if exitcode < 0:
        how = f"the worker was killed by {signal.Signals(-exitcode).name}"
    else:
        how = f"the worker ended with exit code {exitcode}"
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return f"{how}: {lines[-1][:300]}" if lines else how
