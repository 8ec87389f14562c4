"""A Ray cluster: the way to it, and what its nodes have."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.probe import probe
from autotune.machine.targets import Target
from autotune.processes import interrupt

PLACED_S: Final = 120.0
"""So long Ray may take to find a GPU that is free."""


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


def gpu_options(accelerator: str | None) -> dict[str, Any]:
    """What a task or an actor asks Ray for: one GPU of a type, and no CPU, which compiling has."""
    kind = {} if accelerator is None else {"accelerator_type": accelerator}
    return {"num_gpus": 1, "num_cpus": 0, **kind}


def answer_of(reference: Any, timeout_s: float | None = None) -> Any:
    """What a task or an actor's method returned.

    Raises:
        UserError: it refused, or did not begin in time.
    """
    future: Future[Any] = reference.future()
    if not interrupt.wait_for([future], timeout_s):
        raise UserError(f"Ray found no free GPU within {timeout_s:g} s: see `ray status` for what is busy")
    try:
        return future.result()
    except UserError as error:
        raise refusal(error) from None


def refusal(error: UserError) -> UserError:
    """What was refused in an actor, as it was said there: the text of Ray's subclass of it is a traceback."""
    return UserError(str(getattr(error, "cause", error)))


def cluster_target(address: str) -> tuple[Target, int]:
    """The GPU of a cluster, as it describes itself, and how many CPUs compile for it.

    Raises:
        UserError: there is none, or its node lacks what measuring needs.
    """
    ray = connect(address)
    try:
        nodes = nodes_of(ray.nodes())
        described = ray.remote(_described).options(**gpu_options(nodes.accelerator)).remote()
        device = Device(**answer_of(described, PLACED_S))
    finally:
        leave()
    why = f"Measuring on {nodes.gpus} of {device.name}, on Ray at {address}."
    return Target("live", device, live=True, why=why), sum(nodes.cpus.values())


def _described() -> dict[str, Any]:
    """A task's: the GPU that Ray gave it."""
    os.environ.update(shown_by_ray(os.environ))
    return probe()
