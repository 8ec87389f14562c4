"""The byte-bandwidth limit: the least time in which a stage can read the weights that it must."""

from dataclasses import dataclass
from typing import Final

from autotune.kernels.formats import GROUP
from autotune.machine.devices import Device
from autotune.machine.targets import known_device
from autotune.problem.layer import Problem, Stage, gemm_dims

_ROW = 4.0  # a float32 scale an output channel
_INT4, _GROUPED = (0.5, _ROW), (0.5 + 2 / GROUP, 0.0)
_EIGHT_BITS, _BF16 = (1.0, _ROW), (2.0, 0.0)

BYTES: Final = {
    "triton": _INT4,
    "flydsl": _INT4,
    "aiter": _INT4,
    "aiter_main": _INT4,
    "aiter_main_w4a16": _GROUPED,
    "sglang": _EIGHT_BITS,
    "sglang_bf16": _BF16,
    "sglang_fp8": _EIGHT_BITS,
    "sglang_w4a16": _GROUPED,
    "sglang_w8a16": _EIGHT_BITS,
    "vllm": _EIGHT_BITS,
    "vllm_bf16": _BF16,
    "vllm_fp8": _EIGHT_BITS,
    "vllm_w4a16": _GROUPED,
    "vllm_w8a16": _EIGHT_BITS,
}
"""Bytes of a weight, with its share of a group's scale, and of a row's scale, as a backend's kernels read
them."""


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
        device: marketing name of the card, or the target's.

    Returns:
        None where the device's bandwidth, or the width of the backend's weights, is not known.
    """
    known = known_device(device)
    if known is None or not known.bandwidth_bytes_per_s or backend not in BYTES:
        return None
    moved = {str(stage): weight_bytes(problem, stage, backend) for stage in Stage}
    moved["layer"] = sum(moved.values())
    return ByteLimit(
        us={what: size / known.bandwidth_bytes_per_s * 1e6 for what, size in moved.items()},
        megabytes={what: size / 1e6 for what, size in moved.items()},
        device=known,
        uniform=problem.routing.key == "uniform",
    )


def weight_bytes(problem: Problem, stage: Stage, backend: str) -> float:
    """Expected bytes of weights and scales that one step must read for a stage under uniform routing.

    Raises:
        KeyError: what the backend's weights take is not known.
    """
    n, k = gemm_dims(problem.layer, stage)
    weight, row = BYTES[backend]
    return problem.expected_experts() * n * (k * weight + row)
