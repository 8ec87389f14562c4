"""Our W4A8 MoE kernels (Triton, one source for ROCm and CUDA), and the operator that uses them.

Nothing here imports Triton or torch before it is used: `spec.py` needs Triton alone, `operator.py` and
`reference.py` need torch too.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.kernels.operator import fused_moe_w4a8

__all__ = ["fused_moe_w4a8"]


def __getattr__(name: str) -> Any:
    if name == "fused_moe_w4a8":
        from autotune.kernels.operator import fused_moe_w4a8

        return fused_moe_w4a8
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
