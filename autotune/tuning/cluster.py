"""GPUs and compile processes of a Ray cluster, behind the same judges and compilers as on one machine.

An actor with one GPU has the measurer that a machine with one GPU has, and an actor a node the compile pool.
Ray places them and tells when a node is lost; which candidate goes where is the fleet's to say. The driver,
and with it the database, stays on the head.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from autotune.compile.pool import CompilePool
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.probe import probe
from autotune.machine.targets import Kind, Target
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage
from autotune.processes import interrupt
from autotune.protocol.backend import Backend
from autotune.protocol.registry import load_backend
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
)
from autotune.search.live import LiveJudge
from autotune.space.config import Config

T = TypeVar("T")

_PLACED_S: Final = 120.0
_REVIVED: Final = 1
"""So many times a GPU whose actor or node was lost is looked for again; its work meanwhile goes to others."""


def connect(address: str) -> Any:
    """Connects to a cluster and gives the module `ray`.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray: pip install 'moe-autotune[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="autotune")
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"there is no Ray cluster at {address} ({said}): start one with `ray start --head`, or give"
                " its address"
            ) from error
        interrupt.install()  # Ray has its own way with SIGTERM
    return ray


def leave() -> None:
    """Disconnects; the cluster stays."""
    import ray

    ray.shutdown()


@dataclass(frozen=True)
class Nodes:
    """What a cluster has now.

    Attributes:
        gpus: that are free, of the most frequent type.
        accelerator: that type, as Ray calls it; None: Ray does not tell.
        cpus: by node id, of nodes that have any.
    """

    gpus: int
    accelerator: str | None
    cpus: Mapping[str, int]


def nodes_of(described: Sequence[Mapping[str, Any]]) -> Nodes:
    """The cluster of what `ray.nodes()` gives.

    Raises:
        UserError: it has no GPU.
    """
    gpus: Counter[str | None] = Counter()
    cpus = {}
    for node in described:
        resources = node["Resources"]
        if not node["Alive"]:
            continue
        types = [name for name in resources if name.startswith("accelerator_type:")]
        gpus[types[0].partition(":")[2] if types else None] += int(resources.get("GPU", 0))
        if int(resources.get("CPU", 0)):
            cpus[node["NodeID"]] = int(resources["CPU"])
    if not gpus.total():
        raise UserError("no node of this Ray cluster has a GPU: start Ray on nodes that have one")
    if not cpus:
        raise UserError("no node of this Ray cluster has a CPU to compile on: start Ray with --num-cpus")
    (accelerator, count), *_ = gpus.most_common()
    return Nodes(count, accelerator, cpus)


def shown_by_ray(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that show a worker the GPU that Ray gave its actor.

    Ray sets HIP_VISIBLE_DEVICES for AMD's and CUDA_VISIBLE_DEVICES for NVIDIA's, and leaves the other as it
    was on the node: under ROCm both are read, by one library or another, so they must agree.

    Raises:
        UserError: ROCR_VISIBLE_DEVICES renumbers the GPUs below what Ray counts.
    """
    hip = environment.get("HIP_VISIBLE_DEVICES", "")
    if not hip:
        return {}
    if environment.get("ROCR_VISIBLE_DEVICES"):
        raise UserError(
            "ROCR_VISIBLE_DEVICES is set on this node, and Ray counts GPUs without it: start Ray there with"
            " HIP_VISIBLE_DEVICES instead"
        )
    return {"HIP_VISIBLE_DEVICES": hip, "CUDA_VISIBLE_DEVICES": hip}


class GpuHost:
    """An actor's: one GPU, measured as on a machine of its own. Refusals come back as texts."""

    def __init__(self, backend: str, problems: Sequence[Problem], settings: MeasureSettings) -> None:
        self._backend = load_backend(backend)
        self._arguments = (self._backend, problems, settings)
        self._judge: LiveJudge | None = None

    def pid(self) -> int:
        return os.getpid()

    def start(self) -> "tuple[Fingerprint, Gpu] | str":
        def act() -> tuple[Fingerprint, Gpu]:
            self._judge = LiveJudge(*self._arguments, visible=shown_by_ray(os.environ))
            self._judge.__enter__()
            return self._judge.fingerprint, self._judge.gpu

        return _refusals(act)

    def ask(self, name: str, arguments: tuple[Any, ...]) -> Any:
        assert self._judge is not None, "start() comes first"
        return _refusals(lambda: getattr(self._judge, name)(*arguments))


class CompileHost:
    """An actor's: the compile pool of one node."""

    def __init__(self, backend: str, device: Device, workers: int, time_limit_s: float) -> None:
        self._pool = CompilePool(backend, device, workers=workers, time_limit_s=time_limit_s)

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Compiled | Failure:
        return self._pool.submit(layer, tokens, stage, config).result()


def _refusals(act: Callable[[], T]) -> T | str:
    try:
        return act()
    except UserError as error:
        return str(error)


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
        options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0, "max_restarts": 0}
        if accelerator is not None:
            options["accelerator_type"] = accelerator
        made = ray.remote(GpuHost).options(**options)
        self._make: Callable[[], Any] = lambda: made.remote(backend.name, list(problems), settings)
        self._closed = False
        self._revived = 0
        self._known: tuple[Fingerprint, Gpu] | None = None

    @property
    def workload(self) -> str:
        return self._settings.key

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

    def again(self, problem: Problem, stage: Stage, config: Config) -> Measurement | Failure:
        answer: Measurement | Failure = self._ask("again", problem, stage, config)
        return answer

    @property
    def layer_workload(self) -> str:
        return self._settings.layer_key

    def layer(
        self, problem: Problem, config: LayerConfig, default: LayerConfig
    ) -> LayerMeasurement | Failure:
        answer: LayerMeasurement | Failure = self._ask("layer", problem, config, default)
        return answer

    def race(
        self, problem: Problem, configs: Sequence[LayerConfig], rounds: int, seed: int
    ) -> Sequence[Round]:
        answer: Sequence[Round] = self._ask("race", problem, tuple(configs), rounds, seed)
        return answer

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        answer: Confirmation = self._ask("confirm", problem, tuple(finalists))
        return answer

    def time_all(
        self, problem: Problem, finalists: Sequence[Finalist], twins: Mapping[int, int]
    ) -> Confirmation:
        answer: Confirmation = self._ask("time_all", problem, tuple(finalists), dict(twins))
        return answer

    def _begin(self) -> None:
        self._actor = self._make()
        self._started = self._actor.start.remote()

    def _place(self) -> tuple[Fingerprint, Gpu]:
        """What it runs on, once Ray has placed it."""
        if self._known is None:
            self._known = self._answer(self._started, self._settings.prepare_timeout_s + _PLACED_S)
        return self._known

    def _ask(self, name: str, *arguments: Any) -> Any:
        while True:
            try:
                return self._answer(self._actor.ask.remote(name, arguments), None)
            except self._ray.exceptions.RayActorError as error:
                if self._closed:
                    raise CancelledError from error
                self._revive(error)

    def _revive(self, lost: Exception) -> None:
        """Another actor takes the place of one that was lost, on a GPU that is equal.

        Raises:
            UserError: there is none.
        """
        said = " ".join(str(lost).split())[:160]
        if self._revived >= _REVIVED:
            raise UserError(f"its actor was lost again ({said})") from lost
        self._revived += 1
        before, self._known = self._place()[0], None
        self._begin()
        try:
            now = self._place()[0]
        except self._ray.exceptions.RayError as error:
            raise UserError(f"its actor was lost ({said}), and no other GPU was free") from error
        if now.key != before.key:
            raise UserError(f"its actor was lost ({said}), and the GPU that is free now is not equal")

    def _answer(self, reference: Any, timeout_s: float | None) -> Any:
        """What an actor's method returned.

        Raises:
            UserError: it refused, or did not begin in time.
            CancelledError: this judge was closed.
        """
        future: Future[Any] = reference.future()
        if not interrupt.wait_for([future], timeout_s):
            raise UserError(
                f"Ray has not placed it within {timeout_s:g} s: see `ray status` for what is busy"
            )
        answer = future.result()
        if self._closed:
            raise CancelledError
        if isinstance(answer, str):
            raise UserError(answer)
        return answer


class RayCompiler:
    """Compiles on the CPUs of all nodes; a context manager.

    What a lost node was compiling is compiled on another.
    """

    def __init__(
        self, ray: Any, backend: Backend, device: Device, cpus: Mapping[str, int], time_limit_s: float
    ) -> None:
        from ray.util import scheduling_strategies

        self._ray, self._backend = ray, backend
        affinity: Any = scheduling_strategies.NodeAffinitySchedulingStrategy
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
                result.set_exception(error)

        host.compile.remote(*arguments).future().add_done_callback(done)


def cluster_target(address: str) -> tuple[Target, int]:
    """The GPU of a cluster, as it describes itself, and how many CPUs compile for it.

    Raises:
        UserError: there is none, or its node lacks what measuring needs.
    """
    ray = connect(address)
    try:
        nodes = nodes_of(ray.nodes())
        options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0}
        if nodes.accelerator is not None:
            options["accelerator_type"] = nodes.accelerator
        asked: Future[Any] = ray.remote(_described).options(**options).remote().future()
        if not interrupt.wait_for([asked], _PLACED_S):
            raise UserError(f"no GPU of the cluster is free within {_PLACED_S:g} s: see `ray status`")
        answer = asked.result()
    finally:
        leave()
    if isinstance(answer, str):
        raise UserError(answer)
    device = Device(**answer)
    why = f"Measuring on {nodes.gpus} of {device.name}, on Ray at {address}."
    return Target("live", device, live=True, why=why), sum(nodes.cpus.values())


def _described() -> dict[str, Any] | str:
    """A task's: the GPU that Ray gave it."""

    def act() -> dict[str, Any]:
        os.environ.update(shown_by_ray(os.environ))
        return probe()

    return _refusals(act)
