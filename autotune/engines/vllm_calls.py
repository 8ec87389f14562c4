"""vLLM's fused-MoE launches with the arguments that its own code gives them.

Sequence as in vLLM 0.33.0, `model_executor/layers/fused_moe/fused_moe.py`: quantise, GEMM, SiLU(gate) * up,
quantise, GEMM with router weights into a slot each, sum over slots. The activation and the sum are compiled
extensions there; `glue` stands in for them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autotune.engines.moe import Quantisation
from autotune.engines.order import Sorted
from autotune.problem import Stage

if TYPE_CHECKING:
    import torch

_SPARSE = 4
"""Up to a quarter of the experts in slots vLLM does not sort: each slot is a block of its own."""


class VllmCalls:
    """See `EngineCalls`."""

    def __init__(self, moe: Any, quantise: Any, quantisation: Quantisation) -> None:
        """
        Args:
            moe: vLLM's module of kernels.
            quantise: its module with `per_token_quant_int8`.
        """
        self.moe = moe
        self.quantise = quantise
        self._quantisation = quantisation

    def slots_size(self, tokens: int, top_k: int, experts: int, block: int) -> int | None:
        """As `_prepare_expert_assignment` and `moe_align_block_size.py` have it."""
        slots = tokens * top_k
        if slots * _SPARSE <= experts:
            return None
        padded = slots + experts * (block - 1)
        return min(slots * block, padded) if slots < experts else padded

    def gemm(
        self,
        stage: Stage,
        knobs: Mapping[str, int],
        *,
        a: "torch.Tensor",
        a_scale: "torch.Tensor | None",
        w: "torch.Tensor",
        w_scale: "torch.Tensor",
        out: "torch.Tensor",
        router: "torch.Tensor",
        ids: "torch.Tensor",
        order: Sorted,
        top_k: int,
    ) -> None:
        import triton.language as tl

        if a_scale is None:
            a, a_scale = self.quantise.per_token_quant_int8(a)
        one = stage is Stage.STAGE1
        self.moe.invoke_fused_moe_triton_kernel(
            a,
            w,
            out,
            a_scale,
            w_scale,
            router,
            order.slots,
            order.experts,
            order.padded,
            not one,
            top_k if one else 1,
            dict(knobs),
            compute_type=tl.bfloat16,
            use_fp8_w8a8=False,
            use_int8_w8a8=self._quantisation.dtype == "int8_w8a8",
            use_int8_w8a16=False,
            use_int4_w4a16=False,
            per_channel_quant=True,
            block_shape=None,
        )

    def activate(self, gate_up: "torch.Tensor", out: "torch.Tensor") -> None:
        from autotune.engines.glue import silu_mul

        silu_mul(gate_up, out)

    def sum(self, contributions: "torch.Tensor", out: "torch.Tensor") -> None:
        from autotune.engines.glue import slot_sum

        slot_sum(contributions, out)
