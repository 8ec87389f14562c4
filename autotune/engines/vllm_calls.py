"""vLLM's fused-MoE launches with the arguments that its own code gives them.

Sequence as in vLLM 0.33.0, `model_executor/layers/fused_moe/fused_moe.py`: quantise, GEMM, SiLU(gate) * up,
quantise, GEMM with router weights into a slot each, sum over slots. The activation and the sum are compiled
extensions there; `glue` stands in for them, and for the quantisation to FP8.

On NVIDIA GPUs a compiled kernel of another kind serves grouped INT4 weights as long as an expert has at
most six tokens (`should_moe_wna16_use_cuda`): there the Triton kernel, which is what is here, is refused.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autotune.engines.moe import Quantisation
from autotune.engines.order import Sorted
from autotune.errors import UserError
from autotune.kernels.formats import Format
from autotune.problem.layer import Stage

if TYPE_CHECKING:
    import torch

_SPARSE = 4
"""Up to a quarter of the experts in slots vLLM does not sort: each slot is a block of its own."""


class VllmCalls:
    """See `EngineCalls`."""

    silu_bf16 = False

    def __init__(
        self, moe: Any, quantise: Any, quantisation: Quantisation, form: Format = Format.INT8
    ) -> None:
        """
        Args:
            moe: vLLM's module of kernels.
            quantise: its module with `per_token_quant_int8`.
            form: what the kernel multiplies on this GPU.
        """
        self.moe = moe
        self.quantise = quantise
        self._quantisation = quantisation
        self._form = form
        self._grouped = quantisation.dtype == "int4_w4a16"

    def slots_size(self, tokens: int, top_k: int, experts: int, block: int) -> int | None:
        """As `_prepare_expert_assignment` and `moe_align_block_size.py` have it."""
        slots = tokens * top_k
        if slots * _SPARSE <= experts and not self._grouped:
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
        w_scale: "torch.Tensor | None",
        out: "torch.Tensor",
        router: "torch.Tensor",
        ids: "torch.Tensor",
        order: Sorted,
        top_k: int,
    ) -> None:
        import triton.language as tl

        quantisation = self._quantisation
        tokens, top = ids.shape
        if not self.serves(tokens, top, len(w)):
            raise UserError(
                f"at {tokens} tokens vLLM serves {quantisation.dtype} on this GPU by a compiled CUDA kernel,"
                " not by its Triton kernel: raise --concurrency, or tune the like kernel of backend"
                " sglang_w4a16"
            )
        if a_scale is None:
            a, a_scale = self._quantise(a)
        one = stage is Stage.STAGE1
        places = (order.slots, order.experts, order.padded, not one, top_k if one else 1)
        if self._grouped:
            self.moe.invoke_fused_moe_wna16_triton_kernel(
                *(a, w, out, w_scale, None, router, *places),
                {**knobs, "SPLIT_K": 1},  # only the file can give it: see `entry`
                compute_type=tl.bfloat16,
                use_int8_w8a16=False,
                use_int4_w4a16=True,
                block_shape=list(quantisation.block_shape or ()),
            )
            return
        self.moe.invoke_fused_moe_triton_kernel(
            *(a, w, out, a_scale, w_scale, router, *places),
            dict(knobs),
            compute_type=tl.bfloat16,
            use_fp8_w8a8=quantisation.dtype == "fp8_w8a8",
            use_int8_w8a8=quantisation.dtype == "int8_w8a8",
            use_int8_w8a16=quantisation.dtype == "int8_w8a16",
            use_int4_w4a16=False,
            per_channel_quant=quantisation.dtype is not None,
            block_shape=None,
        )

    def serves(self, tokens: int, top_k: int, experts: int) -> bool:
        if not self._grouped:
            return True
        block = self._quantisation.block_shape
        assert block is not None
        compiled = self.moe.should_moe_wna16_use_cuda(tokens * top_k, block[1], experts, 4)
        return not compiled

    def _quantise(self, a: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor | None]":
        match self._quantisation.dtype:
            case "int8_w8a8":
                made: tuple[torch.Tensor, torch.Tensor] = self.quantise.per_token_quant_int8(a)
                return made
            case "fp8_w8a8":
                from autotune.engines.glue import quantise_fp8

                return quantise_fp8(a, self._form)
        return a, None

    def activate(self, gate_up: "torch.Tensor", out: "torch.Tensor") -> None:
        from autotune.engines.glue import silu_mul

        silu_mul(gate_up, out)

    def sum(self, contributions: "torch.Tensor", out: "torch.Tensor") -> None:
        from autotune.engines.glue import slot_sum

        slot_sum(contributions, out)
