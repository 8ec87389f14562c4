"""The byte-bandwidth limit: the least time in which a stage can read the weights that it must."""

from dataclasses import dataclass

from autotune.devices import Device
from autotune.problem import Problem, Stage, gemm_dims
from autotune.targets import known_device

# Bytes of one weight as each backend's kernels read it; ours, FlyDSL's and AITER's read INT4.
_INT4 = 0.5
_BYTES = {
    "triton": _INT4,
    "flydsl": _INT4,
    "aiter": _INT4,
    "aiter_main": _INT4,
    "aiter_main_w4a16": _INT4,
    "sglang": 1.0,
    "sglang_bf16": 2.0,
    "sglang_fp8": 1.0,
    "sglang_w4a16": _INT4,
    "sglang_w8a16": 1.0,
    "vllm": 1.0,
    "vllm_bf16": 2.0,
    "vllm_fp8": 1.0,
    "vllm_w4a16": _INT4,
    "vllm_w8a16": 1.0,
}


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
    known, width = known_device(device), _BYTES.get(backend)
    if known is None or not known.bandwidth_bytes_per_s or width is None:
        return None
    moved = {str(stage): _bytes(problem, stage, width) for stage in Stage}
    moved["layer"] = sum(moved.values())
    return ByteLimit(
        us={what: size / known.bandwidth_bytes_per_s * 1e6 for what, size in moved.items()},
        megabytes={what: size / 1e6 for what, size in moved.items()},
        device=known,
        uniform=problem.routing.key == "uniform",
    )


def _bytes(problem: Problem, stage: Stage, width: float) -> float:
    """Expected weight bytes of a step; the problem counts INT4 pairs and float32 scales."""
    n, k = gemm_dims(problem.layer, stage)
    return problem.weight_bytes(stage) + problem.expected_experts() * n * k * (width - _INT4)
