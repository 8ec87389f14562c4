"""One worker process as the driver sees it: started, killed when it hangs, replaced when it breaks."""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from autotune.errors import UserError
from autotune.measure import requests
from autotune.measure.requests import Look
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem
from autotune.processes.spawning import Child, ChildDied, ChildLate
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
        self._layer: Layer | None = None
        self._logs = tempfile.TemporaryDirectory(prefix="autotune-measure-")
        self._child = Child(Path(self._logs.name, "worker.log"), environment, ahead=True)
        self.restarts = 0

    def look(self) -> "Look | Failure":
        """Starts the process and asks which GPU it has and who is on it; a `Failure` of one that was closed.

        Raises:
            UserError: of the worker, or none can be started.
        """
        answer = self._ready(requests.look, (self._backend, self._settings))
        result: Look | Failure = answer
        return result

    def end(self) -> None:
        """Ends the process; the next request starts another."""
        self._child.kill()
        self._layer = None

    def renew(self, problems: "tuple[Problem, ...]") -> None:
        """From now on it is asked about these: what it has loaded for others is loaded anew."""
        self._problems, self._layer = problems, None

    def prepare(self, layer: Layer) -> Any:
        """Starts the process if need be and loads a layer.

        Returns:
            The `Fingerprint`; a `Failure` of a measurer that was closed meanwhile.

        Raises:
            UserError: of the worker, or it cannot be made ready, for which no candidate is to blame.
        """
        problems = tuple(problem for problem in self._problems if problem.layer == layer)
        answer = self._ready(requests.prepare, (self._backend, self._settings, layer, problems))
        if not isinstance(answer, Failure):
            self._layer = layer
        return answer

    def _ready(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        answer = self._twice(function, arguments, self._settings.prepare_timeout_s, ready=lambda: None)
        if isinstance(answer, Failure):
            self._kill()
            if not self._child.stopped:
                raise UserError(
                    f"the measure worker could not be made ready, {answer.reason}: see that the GPU is free,"
                    " its driver works and the machine has memory left"
                )
        return answer

    def call(self, layer: Layer, function: "Callable[..., T | Failure]", *arguments: Any) -> "T | Failure":
        """Asks the worker, with `layer` loaded. Whatever a candidate does there comes back as a `Failure`.

        A worker may be killed by others: the OOM killer, an operator. So who was on the GPU when it died is
        tried once more in a fresh one; a death that repeats is its own.

        Raises:
            UserError: of the worker, or none can be made ready.
        """

        def ready() -> Failure | None:
            if self._child.started and not self._child.is_alive():
                self._kill()  # from outside, while it was idle: no candidate is to blame
            loaded = None if self._layer == layer else self.prepare(layer)
            return loaded if isinstance(loaded, Failure) else None

        answer = self._twice(function, arguments, self._settings.timeout_s, ready)
        if isinstance(answer, Failure) and self._child.started:
            broken = self._twice(requests.recover, (), RECOVER_TIMEOUT_S, ready=lambda: None, tries=1)
            if broken is not None:
                log.info("worker replaced after %s", broken)
                self._kill()
        result: T | Failure = answer
        return result

    def stop(self) -> None:
        """Kills the process for good; a request under way, of another thread, comes back as a `Failure`."""
        self._child.stop()
        self._logs.cleanup()

    def _twice(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        timeout_s: float,
        ready: Callable[[], Failure | None],
        tries: int = 2,
    ) -> Any:
        """The answer; once more where the worker dies of, or during, the first try.

        Args:
            ready: makes the worker ready for the request; a `Failure`: it was closed.
        """
        start = time.perf_counter()

        def failure(status: Status, reason: str) -> Failure:
            if self._child.stopped:
                reason = "the measurer was closed"
            return Failure(status, reason, time.perf_counter() - start)

        deaths: list[str] = []
        while not self._child.stopped and len(deaths) < tries:
            unready = ready()
            if unready is not None:
                return unready
            try:
                return self._child.ask(function, arguments, timeout_s)
            except ChildLate:
                self._gone()
                return failure(
                    Status.TIMEOUT, f"no answer within {timeout_s:g} s: a hang; the worker was killed"
                )
            except ChildDied as death:
                self._gone()
                deaths.append(death.how)
                log.info("the worker %s", death.how)
        again = "; the second death, in a fresh worker" if len(deaths) > 1 else ""
        return failure(Status.RUNTIME_ERROR, f"the worker {deaths[-1] if deaths else 'is gone'}{again}")

    def _kill(self) -> None:
        if self._child.started:
            self._child.kill()
            self._gone()

    def _gone(self) -> None:
        self._layer = None
        self.restarts += not self._child.stopped
