"""The byte-bandwidth limit: the least time in which a stage can read the weights that it must."""

from dataclasses import dataclass

from autotune.errors import UserError
from autotune.machine.devices import Device, known_device
from autotune.problem.layer import Problem, Stage, WeightBytes
from autotune.protocol.registry import weight_bytes


@dataclass(frozen=True)
class ByteLimit:
    """What memory alone allows.

    Attributes:
        us: microseconds by what is timed: `stage1`, `stage2`, `layer`.
        megabytes: 10^6 bytes of weights, expected a step.
        device: whose bandwidth.
        uniform: the routing is uniform; any other one visits fewer distinct experts, so the true limit is
            lower than this one and the true fraction smaller.
    """

    us: dict[str, float]
    megabytes: dict[str, float]
    device: Device
    uniform: bool

    @property
    def source(self) -> str:
        """Where the bandwidth is from, as a sentence's end."""
        return f"{self.device.bandwidth_bytes_per_s / 1e12:.2f} TB/s, {self.device.name}'s datasheet"

    def fraction(self, what: str, us: float) -> float:
        """The limit as a fraction of a time."""
        return self.us[what] / us


def byte_limit(problem: Problem, backend: str, device: str) -> ByteLimit | None:
    """The limit of a problem's stages and layer.

    Args:
        device: marketing name of the GPU, or the target's.

    Returns:
        None where the device's bandwidth, or the width of the backend's weights, is not known.
    """
    known, weights = known_device(device), weights_of(backend)
    if known is None or not known.bandwidth_bytes_per_s or weights is None:
        return None
    moved = {str(stage): weights.read(problem, stage) for stage in Stage}
    moved["layer"] = sum(moved.values())
    return ByteLimit(
        us={what: size / known.bandwidth_bytes_per_s * 1e6 for what, size in moved.items()},
        megabytes={what: size / 1e6 for what, size in moved.items()},
        device=known,
        uniform=problem.routing.key == "uniform",
    )


def weights_of(backend: str) -> WeightBytes | None:
    """How many bytes a backend's kernels read; None: it does not say, or is not installed here."""
    try:
        return weight_bytes(backend)
    except UserError:
        return None
