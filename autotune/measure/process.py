"""One worker process as the driver sees it: started, killed when it hangs, replaced when it breaks."""

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, TimeoutError
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from autotune.errors import UserError
from autotune.measure import worker
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
        self._pool: ProcessPool | None = None
        self._layer: Layer | None = None
        self._stopped = False
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
            worker.prepare,
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

    def call(
        self, layer: Layer, function: "Callable[..., T | Failure | worker.NotReady]", *arguments: Any
    ) -> "T | Failure":
        """Asks the worker, with `layer` loaded. Whatever a candidate does there comes back as a `Failure`.

        Raises:
            UserError: of the worker.
        """
        if self._layer != layer:
            ready = self.prepare(layer)
            if isinstance(ready, Failure):
                return ready
        answer = self._ask(function, *arguments, timeout=self._settings.timeout_s)
        if isinstance(answer, worker.NotReady):  # killed from outside while it was idle; the pool replaced it
            ready = self.prepare(layer)
            if isinstance(ready, Failure):
                return ready
            answer = self._ask(function, *arguments, timeout=self._settings.timeout_s)
        if isinstance(answer, Failure) and self._pool is not None:
            broken = self._ask(worker.recover, timeout=RECOVER_TIMEOUT_S)
            if isinstance(broken, Failure):
                log.info("worker replaced: %s", broken.reason)
                self._kill()
        result: T | Failure = answer
        return result

    def stop(self) -> None:
        """Kills the process for good; a request under way comes back as a `Failure`."""
        self._stopped = True
        self._kill()

    def _ask(self, function: Callable[..., Any], *arguments: Any, timeout: float) -> Any:
        """The answer, or a `Failure` when the process hung or died, after which it is gone."""
        if self._stopped:
            return Failure(Status.RUNTIME_ERROR, "the measurer was closed")
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=1,
                context=multiprocessing.get_context("spawn"),
                initializer=worker.start,
                initargs=[self._environment],
            )
        start = time.perf_counter()
        try:
            return self._pool.schedule(function, args=arguments, timeout=timeout).result()
        except UserError:
            raise
        except TimeoutError:
            self._kill()
            reason = f"no answer within {timeout:g} s: a hang; the worker was killed"
            return Failure(Status.TIMEOUT, reason, time.perf_counter() - start)
        except ProcessExpired as error:
            self._kill()
            return Failure(Status.RUNTIME_ERROR, _death(error.exitcode), time.perf_counter() - start)
        except CancelledError:
            return Failure(Status.RUNTIME_ERROR, "the measurer was closed", time.perf_counter() - start)

    def _kill(self) -> None:
        pool, self._pool, self._layer = self._pool, None, None
        if pool is not None:
            self.restarts += 1
            stop: Callable[[], None] = pool.stop
            stop()
            pool.join()


def _death(exitcode: int | None) -> str:
    """How a worker died, in words. A negative exit code is a signal's number."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = ", as when the machine runs out of memory" if name == "SIGKILL" else ""
        return f"the worker was killed by {name}{hint}"
    return f"the worker ended with exit code {exitcode}"
