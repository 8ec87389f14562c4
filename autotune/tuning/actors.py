"""GPUs and compile processes of a Ray cluster, behind the same judges and compilers as on one machine.

An actor with one GPU has the judge that a machine with one GPU has, and an actor a node the compile pool.
Ray places them and tells when a node is lost; which candidate goes where is the fleet's to say. The driver,
and with it the database, stays on the head.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from autotune.compile.pool import CompilePool
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.backend import Backend
from autotune.protocol.registry import load_backend
from autotune.results import Compiled, Failure, Gpu
from autotune.search.live import LiveJudge
from autotune.space.config import Config
from autotune.tuning.cluster import PLACED_S, answer_of, gpu_options, refusal, shown_by_ray

P = ParamSpec("P")
T = TypeVar("T")

_REVIVED: Final = 1
"""So many times a GPU whose actor or node was lost is looked for again; its work meanwhile goes to others."""
REVIVED_S: Final = 60.0
"""So long Ray may take to begin an actor again: what was lost with it waits for that, or goes to others."""


class GpuHost:
    """An actor's: one GPU, measured as on a machine of its own."""

    def __init__(self, backend: str, problems: Sequence[Problem], settings: MeasureSettings) -> None:
        self._arguments = (load_backend(backend), problems, settings)

    def start(self) -> tuple[Fingerprint, Gpu]:
        self._judge = LiveJudge(*self._arguments, visible=shown_by_ray(os.environ))
        self._judge.__enter__()
        return self._judge.fingerprint, self._judge.gpu

    def ask(self, name: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self._judge, name)(*arguments)


class CompileHost:
    """An actor's: the compile pool of one node."""

    def __init__(self, backend: str, device: Device, workers: int, time_limit_s: float) -> None:
        self._pool = CompilePool(backend, device, workers=workers, time_limit_s=time_limit_s)

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Compiled | Failure:
        return self._pool.submit(layer, tokens, stage, config).result()


def _passed_on(method: Callable[Concatenate[LiveJudge, P], T]) -> "Callable[Concatenate[RayGpu, P], T]":
    """A judge's method, done by the actor's judge."""

    def ask(self: "RayGpu", /, *arguments: P.args, **_: P.kwargs) -> T:
        answer: T = self.ask(method.__name__, arguments)
        return answer

    return ask


class RayGpu:
    """The judge of one GPU of a cluster; see `autotune.tuning.fleet.GpuJudge`."""

    kind = Kind.MEASURED

    def __init__(
        self,
        ray: Any,
        backend: Backend,
        problems: Sequence[Problem],
        settings: MeasureSettings,
        accelerator: str | None,
    ) -> None:
        self._ray, self._settings = ray, settings
        host = ray.remote(GpuHost).options(**gpu_options(accelerator), max_restarts=0)
        self._make: Callable[[], Any] = lambda: host.remote(backend.name, list(problems), settings)
        self._closed = False
        self._revived = 0
        self._known: tuple[Fingerprint, Gpu] | None = None

    @property
    def workload(self) -> str:
        return self._settings.key

    @property
    def layer_workload(self) -> str:
        return self._settings.layer_key

    @property
    def fingerprint(self) -> Fingerprint:
        return self._place()[0]

    @property
    def gpu(self) -> Gpu:
        return self._place()[1]

    def __enter__(self) -> "RayGpu":
        self._begin()
        return self

    def close(self) -> None:
        self._closed = True
        self._ray.kill(self._actor)  # its measure worker dies with it

    again = _passed_on(LiveJudge.again)
    layer = _passed_on(LiveJudge.layer)
    race = _passed_on(LiveJudge.race)
    confirm = _passed_on(LiveJudge.confirm)
    time_all = _passed_on(LiveJudge.time_all)

    def ask(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What the actor's judge answers, or, where it is lost, that of an equal GPU.

        Raises:
            UserError: it refused, or is lost and there is no other.
            CancelledError: this judge was closed.
        """
        while True:
            try:
                answer = answer_of(self._actor.ask.remote(name, arguments))
            except self._ray.exceptions.RayActorError as error:
                if not self._closed:
                    self._revive(error)
                    continue
            if self._closed:
                raise CancelledError
            return answer

    def _begin(self) -> None:
        self._actor = self._make()
        self._started = self._actor.start.remote()

    def _place(self) -> tuple[Fingerprint, Gpu]:
        """What it runs on, once Ray has placed it.

        Raises:
            UserError: no GPU was free, it cannot be used, or it was lost meanwhile.
        """
        if self._known is None:
            try:
                self._known = answer_of(self._started, self._settings.prepare_timeout_s + PLACED_S)
            except self._ray.exceptions.RayError as error:
                raise UserError(f"its actor was lost while it started ({_said(error)})") from error
        return self._known

    def _revive(self, lost: Exception) -> None:
        """Another actor takes the place of one that was lost, on a GPU that is equal.

        Raises:
            UserError: there is none.
        """
        if self._revived >= _REVIVED:
            raise UserError(f"its actor was lost again ({_said(lost)})") from lost
        self._revived += 1
        before, self._known = self._place()[0], None
        self._begin()
        try:
            answer_of(self._actor.__ray_ready__.remote(), REVIVED_S)
            now = self._place()[0]
            if now.key != before.key:
                raise UserError("the GPU that is free now is not equal")
        except (UserError, self._ray.exceptions.RayError) as error:
            self._ray.kill(self._actor)  # not to be placed later, and hold a GPU
            raise UserError(f"its actor was lost ({_said(lost)}), and there is no other: {error}") from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


class RayCompiler:
    """Compiles on the CPUs of all nodes; a context manager.

    What a lost node was compiling is compiled on another.
    """

    def __init__(
        self, ray: Any, backend: Backend, device: Device, cpus: Mapping[str, int], time_limit_s: float
    ) -> None:
        self._ray, self._backend = ray, backend
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        self._hosts: dict[Any, int] = {}
        self._made: dict[str, Future[Compiled | Failure]] = {}
        self._closed = False
        for node, count in cpus.items():
            workers = max(1, count - 1)  # one is left to what measures
            host = ray.remote(CompileHost).options(
                num_cpus=workers,
                max_concurrency=workers + 1,
                scheduling_strategy=affinity(node, soft=False),
            )
            self._hosts[host.remote(backend.name, device, workers, time_limit_s)] = 0

    def __enter__(self) -> "RayCompiler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the pools; what is under way is dropped."""
        self._closed = True
        for host in self._hosts:
            self._ray.kill(host)

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> "Future[Compiled | Failure]":
        """See `CompilePool.submit`."""
        key = self._backend.artefact_key(layer, tokens, stage, config)
        if key not in self._made:
            self._made[key] = Future()
            self._made[key].set_running_or_notify_cancel()
            self._send(self._made[key], (layer, tokens, stage, config))
        return self._made[key]

    def _send(self, result: "Future[Compiled | Failure]", arguments: tuple[Any, ...]) -> None:
        if not self._hosts:
            result.set_exception(UserError("every node that compiled is lost: see `ray status`"))
            return
        host = min(self._hosts, key=self._hosts.__getitem__)
        self._hosts[host] += 1

        def done(future: "Future[Any]") -> None:
            if host in self._hosts:
                self._hosts[host] -= 1
            error = future.exception()
            if error is None:
                result.set_result(future.result())
            elif isinstance(error, self._ray.exceptions.RayActorError) and not self._closed:
                self._hosts.pop(host, None)
                self._send(result, arguments)
            else:
                result.set_exception(refusal(error) if isinstance(error, UserError) else error)

        host.compile.remote(*arguments).future().add_done_callback(done)
