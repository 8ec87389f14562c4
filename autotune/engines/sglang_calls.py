"""SGLang's fused-MoE launches with the arguments that its own code gives them.

Sequence as in SGLang 0.5.23, `srt/layers/moe/moe_runner/triton_utils/fused_moe.py`: GEMM, SiLU(gate) * up,
GEMM with router weights into a slot each, sum over slots.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autotune.engines.moe import Quantisation
from autotune.engines.order import Sorted
from autotune.problem.layer import Stage

if TYPE_CHECKING:
    import torch


class SglangCalls:
    """See `EngineCalls`."""

    silu_bf16 = True

    def __init__(self, moe: Any, quantisation: Quantisation) -> None:
        """
        Args:
            moe: SGLang's module of kernels.
        """
        self.moe = moe
        self._quantisation = quantisation

    def slots_size(self, tokens: int, top_k: int, experts: int, block: int) -> int:
        """As `moe_align_block_size.py` allocates them, with room for a filtered expert."""
        slots = tokens * top_k
        padded = slots * block if slots < experts + 1 else slots + (experts + 1) * (block - 1)
        return (padded + 3) // 4 * 4

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
        one = stage is Stage.STAGE1
        with self._quantised(a_scale):
            self.moe.invoke_fused_moe_kernel(
                a,
                w,
                None,
                out.flatten(0, 1) if one else out,
                None,
                w_scale,
                None,
                router,
                ids,
                order.slots,
                order.experts,
                order.padded,
                not one,
                top_k if one else 1,
                dict(knobs),
                compute_type=tl.bfloat16,
                use_fp8_w8a8=quantisation.dtype == "fp8_w8a8",
                use_int8_w8a8=quantisation.dtype == "int8_w8a8",
                use_int8_w8a16=quantisation.dtype == "int8_w8a16",
                use_int4_w4a16=quantisation.dtype == "int4_w4a16",
                per_channel_quant=quantisation.per_channel,
                block_shape=None if quantisation.block_shape is None else list(quantisation.block_shape),
                filter_expert=False,
                router_topk=top_k,
            )

    def serves(self, tokens: int, top_k: int, experts: int) -> bool:
        return True

    def activate(self, gate_up: "torch.Tensor", out: "torch.Tensor") -> None:
        self.moe.act_and_mul_triton(gate_up, out, {})

    def sum(self, contributions: "torch.Tensor", out: "torch.Tensor") -> None:
        shaped = contributions.view(len(out), -1, out.shape[-1])
        self.moe.moe_sum_reduce_triton(shaped, out, 1.0)

    @contextmanager
    def _quantised(self, scale: "torch.Tensor | None") -> Iterator[None]:
        """While it lasts, SGLang's quantisation hands activations on that are quantised already.

        A stage is then timed by itself, on the very values that the numeric gate's reference has.
        """
        if scale is None:
            yield
            return
        name = "per_token_quant_int8" if self._quantisation.dtype == "int8_w8a8" else "scaled_fp8_quant"
        own = getattr(self.moe, name)
        setattr(self.moe, name, lambda a, *_, **__: (a, scale))
        try:
            yield
        finally:
            setattr(self.moe, name, own)
