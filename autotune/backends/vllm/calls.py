"""vLLM's fused-MoE launches with the arguments that its own code gives them.

Sequence as in vLLM 0.33.0, `model_executor/layers/fused_moe/fused_moe.py`: quantise, GEMM, SiLU(gate) * up,
quantise, GEMM with router weights into a slot each, sum over slots. The activation and the sum are compiled
extensions there; `glue` stands in for them, and for the quantisation to FP8.

On NVIDIA GPUs a compiled kernel of another kind serves grouped INT4 weights as long as an expert has at
most six tokens (`should_moe_wna16_use_cuda`): there the Triton kernel, which is what is here, is refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from autotune.engines.calls import Sorted, align
from autotune.engines.dtypes import Dtype
from autotune.engines.rows import Engine
from autotune.errors import UserError
from autotune.kernels.formats import BLOCK, Format
from autotune.problem.layer import Layer, Stage

if TYPE_CHECKING:
    import torch

_SPARSE = 4
"""Up to a quarter of the experts in slots vLLM does not sort: each slot is a block of its own."""


class VllmCalls:
    """See `EngineCalls`."""

    silu_bf16 = False

    def __init__(self, moe: Any, quantise: Any, dtype: Dtype, per_channel: bool, form: Format) -> None:
        """
        Args:
            moe: vLLM's module of kernels.
            quantise: its module with `per_token_quant_int8`.
            form: what the kernel multiplies on this GPU.
        """
        self.moe = moe
        self.quantise = quantise
        self._dtype = dtype
        self._form = form

    def slots_size(self, layer: Layer, tokens: int, block: int) -> int | None:
        """As `_prepare_expert_assignment` and `moe_align_block_size.py` have it."""
        slots, experts = tokens * layer.top_k, layer.routed
        if slots * _SPARSE <= experts and not self._dtype.group and layer.ep == 1:
            return None
        padded = slots + experts * (block - 1)
        return min(slots * block, padded) if slots < experts else padded

    def order(self, layer: Layer, ids: "torch.Tensor", block: int, size: int) -> Sorted:
        """Other GPUs' experts have no blocks; with grouped weights (`TritonWNA16Experts`) each has its own
        behind ours, of expert -1, which the kernel fills with zeros."""
        if layer.ep == 1 or not self._dtype.group:
            return align(ids, layer.experts, block, size)
        every = ids.where(ids >= 0, -1 - ids)
        order = align(every, layer.routed, block, size)
        here = order.experts < layer.experts
        return replace(order, experts=order.experts.where(here, -1))

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

        tokens, top = ids.shape
        if not self.serves(tokens, top, len(w)):
            raise UserError(
                f"at {tokens} tokens vLLM serves {self._dtype.selector} on this GPU by a compiled CUDA"
                " kernel, not by its Triton kernel: raise --concurrency, or tune the like kernel of backend"
                " sglang_w4a16"
            )
        if a_scale is None:
            a, a_scale = self._quantise(a)
        first = stage is Stage.STAGE1
        places = (order.slots, order.experts, order.padded, not first, top_k if first else 1)
        if self._dtype.group:
            self.moe.invoke_fused_moe_wna16_triton_kernel(
                *(a, w, out, w_scale, None, router, *places),
                {**knobs, "SPLIT_K": 1},  # only the file can give it: see `entry`
                compute_type=tl.bfloat16,
                use_int8_w8a16=self._dtype.weights == "int8",
                use_int4_w4a16=self._dtype.weights == "int4",
                block_shape=[0, self._dtype.group],
            )
            return
        self.moe.invoke_fused_moe_triton_kernel(
            *(a, w, out, a_scale, w_scale, router, *places),
            dict(knobs),
            compute_type=tl.bfloat16,
            **self._dtype.switches(),
            per_channel_quant=self._dtype.quantised and not self._dtype.blocks,
            block_shape=[BLOCK, BLOCK] if self._dtype.blocks else None,
        )

    def serves(self, tokens: int, top_k: int, experts: int) -> bool:
        if not self._dtype.group:
            return True
        bits = 4 if self._dtype.weights == "int4" else 8
        compiled = self.moe.should_moe_wna16_use_cuda(tokens * top_k, self._dtype.group, experts, bits)
        return not compiled

    def _quantise(self, a: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor | None]":
        match self._dtype.activations:
            case "int8":
                quantised: tuple[torch.Tensor, torch.Tensor] = self.quantise.per_token_quant_int8(a)
                return quantised
            case "fp8":
                from autotune.engines.glue import quantise_fp8

                return quantise_fp8(a, self._form)
        return a, None

    def activate(self, gate_up: "torch.Tensor", out: "torch.Tensor") -> None:
        from autotune.engines.glue import silu_mul

        silu_mul(gate_up, out)

    def sum(self, contributions: "torch.Tensor", out: "torch.Tensor", ids: "torch.Tensor") -> None:
        from autotune.engines.glue import slot_sum

        slot_sum(contributions, out, ids)


def stand_ins(runtime: str, arch: str) -> dict[str, dict[str, Any]]:
    """Attributes of the modules that vLLM's kernel files import and that are not run, as in `Engine`."""
    import triton
    import triton.language as tl

    hip = runtime == "hip"
    major = 0 if hip else int(arch.removeprefix("sm_")[:-1])
    platform = SimpleNamespace(
        is_rocm=lambda: hip,
        is_cuda=lambda: not hip,
        is_xpu=lambda: False,
    )
    return {
        "vllm.platforms": {"current_platform": platform},
        "vllm.triton_utils": {"tl": tl, "triton": triton},
        "vllm.model_executor.layers.fused_moe.utils": {
            "enable_swap_ab": lambda m, n: major == 9 and m < 64 <= n,
            "resolve_moe_use_td": lambda: False,
            "warn_if_moe_use_td_ineffective": lambda *_, **__: None,
        },
    }


def _spread(tp: int, ep: int) -> str | None:
    """Rule as in vLLM 0.33.0: experts are spread, whole, over tensor times data parallel GPUs."""
    if ep % tp:
        return f"vLLM splits no expert under expert parallelism, so --ep is {tp} or a multiple of it"
    return None


VLLM = Engine(
    name="vllm",
    title="vLLM",
    files=(
        "vllm/model_executor/layers/fused_moe/fused_moe.py",
        "vllm/model_executor/layers/quantization/utils/int8_utils.py",
    ),
    stand_ins=stand_ins,
    calls=VllmCalls,
    configs="vllm/model_executor/layers/fused_moe/configs",
    one_config=True,
    spread=_spread,
)
