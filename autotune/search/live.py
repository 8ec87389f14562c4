"""The evaluator that measures on the device of this machine."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, TypeVar

from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.measure.lock import InOrder
from autotune.measure.pool import Measurer
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem, Stage
from autotune.processes import interrupt
from autotune.protocol.backend import Backend
from autotune.protocol.process_knobs import layer_environment
from autotune.results import (
    Compiled,
    Confirmation,
    Failure,
    Finalist,
    Gpu,
    LayerConfig,
    LayerMeasurement,
    Measurement,
    Round,
    Status,
)
from autotune.search.evaluate import LayerOutcome, Outcome
from autotune.space.config import Config

T = TypeVar("T")

_MAY_BE_THE_GPU = (Status.RUNTIME_ERROR, Status.TIMEOUT)


class LiveJudge:
    """Measures candidates and confirms finalists; use it as a context manager.

    Its worker starts on entry, in the background; `fingerprint` waits for it.

    Args:
        visible, order: see `Measurer`.
    """

    kind = Kind.MEASURED

    def __init__(
        self,
        backend: Backend,
        problems: Sequence[Problem],
        settings: MeasureSettings,
        say: Callable[[str], None] | None = None,
        visible: Mapping[str, str] | None = None,
        order: InOrder | None = None,
    ) -> None:
        self._backend = backend
        self._measurer = Measurer(backend.runtime, problems, settings, say, visible, order)

    def __enter__(self) -> "LiveJudge":
        self._measurer.__enter__()
        self._started = self._measurer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._measurer.__exit__(kind, error, trace)

    def renew(self, problems: Sequence[Problem], say: Callable[[str], None] | None = None) -> None:
        """Other problems are measured from now on, by the worker that is there; nothing may be under way."""
        self._measurer.renew(problems, say)
        self._started = self._measurer.start()

    @property
    def workload(self) -> str:
        return self._measurer.workload_key

    @property
    def fingerprint(self) -> Fingerprint:
        return interrupt.result_of(self._started)

    @property
    def gpu(self) -> Gpu:
        """The GPU, once it is started."""
        return self._measurer.gpu

    def close(self) -> None:
        """Ends the worker, from any thread; what is asked of this judge ends with `CancelledError`."""
        self._measurer.close()

    def evaluate(
        self, problem: Problem, stage: Stage, config: Config, compiled: Compiled
    ) -> "Future[Outcome]":
        # A future is invariant in its result: this one's is one of an evaluation's outcomes.
        future: Future[Any] = self._measurer.submit(problem, stage, config, self._backend.environment(config))
        return future

    @property
    def layer_workload(self) -> str:
        return self._measurer.settings.layer_key

    def evaluate_layer(
        self, problem: Problem, config: LayerConfig, default: LayerConfig
    ) -> "Future[LayerOutcome]":
        return self._submit_layer(problem, config, default)

    def _submit_layer(
        self, problem: Problem, config: LayerConfig, default: LayerConfig
    ) -> "Future[LayerMeasurement | Failure]":
        environment = layer_environment(self._backend.environment)(default)
        return self._measurer.submit_layer(problem, config, default, environment)

    def layer(
        self, problem: Problem, config: LayerConfig, default: LayerConfig
    ) -> LayerMeasurement | Failure:
        """A layer beside the default.

        Raises:
            UserError: the GPU is lost.
        """
        outcome = interrupt.result_of(self._submit_layer(problem, config, default))
        failed = isinstance(outcome, Failure) and outcome.status in _MAY_BE_THE_GPU
        return self._of_a_gpu(problem, outcome, failed=failed)

    def race(
        self, problem: Problem, configs: Sequence[LayerConfig], rounds: int, seed: int
    ) -> Sequence[Round]:
        """Rounds on routings of the races' own: see `Measurer.race`.

        Raises:
            UserError: the GPU is lost.
        """
        environments = layer_environment(self._backend.environment)
        raced = self._measurer.race(problem, configs, rounds, seed, environments)
        return self._of_a_gpu(problem, raced, failed=not all(us for round_ in raced for us in round_.us))

    def again(self, problem: Problem, stage: Stage, config: Config) -> Measurement | Failure:
        """One more window of a config.

        Raises:
            UserError: the GPU is lost.
        """
        window = self._measurer.submit(problem, stage, config, self._backend.environment(config))
        outcome = interrupt.result_of(window)
        failed = isinstance(outcome, Failure) and outcome.status in _MAY_BE_THE_GPU
        return self._of_a_gpu(problem, outcome, failed=failed)

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        """Paired rounds on fresh routings.

        Raises:
            UserError: the GPU is lost.
        """
        environments = layer_environment(self._backend.environment)
        confirmed = self._measurer.confirm(problem, finalists, environments)
        return self._of_a_gpu(problem, confirmed, failed=None in confirmed.errors)

    def time_all(
        self, problem: Problem, finalists: Sequence[Finalist], twins: Mapping[int, int]
    ) -> Confirmation:
        """Every finalist in every round: see `autotune.measure.table`."""
        environments = layer_environment(self._backend.environment)
        timed = self._measurer.time_all(problem, finalists, environments, twins)
        return self._of_a_gpu(problem, timed, failed=None in timed.errors)

    def _of_a_gpu(self, problem: Problem, answer: T, *, failed: bool) -> T:
        """An answer, unless no candidate is to blame for it: the measurer was closed, or the GPU is gone."""
        if self._measurer.closed:
            raise CancelledError
        if failed:
            interrupt.result_of(self._measurer.ready(problem.layer))
        return answer
