"""SGLang's fused-MoE launches with the arguments that its own code gives them.

Sequence as in SGLang 0.5.23, `srt/layers/moe/moe_runner/triton_utils/fused_moe.py`: GEMM, SiLU(gate) * up,
GEMM with router weights into a slot each, sum over slots.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from autotune.engines.calls import Sorted, align
from autotune.engines.dtypes import FP8_BLOCK, FP8_W8A8, Dtype
from autotune.engines.rows import Engine
from autotune.kernels.formats import BLOCK, Format
from autotune.problem.layer import Layer, Stage

if TYPE_CHECKING:
    import torch


BY_GROUP = ("sglang_per_token_group_quant_fp8", "per_token_group_quant_fp8")
"""SGLang's quantisation of activations in groups, on CUDA and elsewhere."""


class SglangCalls:
    """See `EngineCalls`."""

    silu_bf16 = True

    def __init__(self, moe: Any, quantise: Any, dtype: Dtype, per_channel: bool, form: Format) -> None:
        """
        Args:
            moe: SGLang's module of kernels.
        """
        self.moe = moe
        self._dtype = dtype
        self._per_channel = per_channel
        self._block_shape = [0, dtype.group] if dtype.group else [BLOCK, BLOCK] if dtype.blocks else None

    def slots_size(self, layer: Layer, tokens: int, block: int) -> int:
        """As `moe_align_block_size.py` allocates them, with room for a filtered expert."""
        slots, experts = tokens * layer.top_k, layer.experts
        padded = slots * block if slots < experts + 1 else slots + (experts + 1) * (block - 1)
        return (padded + 3) // 4 * 4

    def order(self, layer: Layer, ids: "torch.Tensor", block: int, size: int) -> Sorted:
        """Other GPUs' experts are all one, -1, whose blocks come first; the kernel fills them with zeros."""
        return align(ids.clamp(min=-1), layer.experts + 1, block, size, first=-1)

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

        first = stage is Stage.STAGE1
        with self._quantised(a_scale):
            self.moe.invoke_fused_moe_kernel(
                a,
                w,
                None,
                out.flatten(0, 1) if first else out,
                a_scale if self._dtype.blocks else None,
                w_scale,
                None,
                router,
                ids,
                order.slots,
                order.experts,
                order.padded,
                not first,
                top_k if first else 1,
                dict(knobs),
                compute_type=tl.bfloat16,
                **self._dtype.switches(),
                per_channel_quant=self._per_channel,
                block_shape=self._block_shape,
                filter_expert=False,  # 0.5.23's kernel skips an expert -1 either way
                router_topk=top_k,
            )

    def serves(self, tokens: int, top_k: int, experts: int) -> bool:
        return True

    def activate(self, gate_up: "torch.Tensor", out: "torch.Tensor") -> None:
        self.moe.act_and_mul_triton(gate_up, out, {})

    def sum(self, contributions: "torch.Tensor", out: "torch.Tensor", ids: "torch.Tensor") -> None:
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
        names = ["per_token_quant_int8"] if self._dtype.activations == "int8" else ["scaled_fp8_quant"]
        own = {name: getattr(self.moe, name) for name in (BY_GROUP if self._dtype.blocks else names)}
        for name in own:
            setattr(self.moe, name, lambda a, *_, **__: (a, scale))
        try:
            yield
        finally:
            for name, function in own.items():
                setattr(self.moe, name, function)


def stand_ins(runtime: str, arch: str) -> dict[str, dict[str, Any]]:
    """Attributes of the modules that SGLang's kernel files import and that are not run.

    They are what these functions return on such a GPU with SGLang's own defaults.
    """
    from autotune.engines.glue import quantise_fp8

    hip = runtime == "hip"
    major = 0 if hip else int(arch.removeprefix("sm_")[:-1])
    fp8, in_blocks = FP8_W8A8.format(arch), FP8_BLOCK.format(arch)
    return {
        "sglang.srt.utils": {
            "is_cuda": lambda: not hip,
            "is_hip": lambda: hip,
            "is_cpu": lambda: False,
            "cpu_has_amx_support": lambda: False,
            "is_sm90_supported": lambda *_: major == 9,
        },
        "sglang.srt.environ": {"envs": SimpleNamespace(SGLANG_USE_AITER=SimpleNamespace(get=lambda: False))},
        "sglang.srt.batch_invariant_ops": {"is_batch_invariant_mode_enabled": lambda: False},
        "sglang.srt.layers.moe.utils": {"get_moe_padding_size": lambda *_: 0},
        # A compiled extension there.
        "sglang.kernels.ops.quantization.fp8_kernel": {
            "scaled_fp8_quant": lambda a, *_, **__: quantise_fp8(a, fp8),
            **dict.fromkeys(BY_GROUP, lambda a, *_, **__: quantise_fp8(a, in_blocks)),
        },
        # Programmatic dependent launch, which SGLang uses from Hopper on.
        "sglang.kernels.jit.utils": {"is_arch_support_pdl": lambda: major >= 9},
    }


def _fused(family: str, experts: int, dtype: str | None) -> int:
    """Shared experts that SGLang counts as routed ones unless it is told not to.

    Rules as in SGLang 0.5.23 (`shared_experts_fusion_disable_reason` in models/deepseek_v2.py and
    glm4_moe.py): DeepSeek-V3's one beside 256, and GLM-4.5's; not where the routed ones alone are INT4.

    Args:
        family: `model_type` of the model's config.json.
        experts: routed ones.
        dtype: the engine's selector.
    """
    fuses = (family == "deepseek_v3" and experts == 256) or (family == "glm4_moe" and experts in (128, 160))
    return int(fuses and dtype != "int4_w4a16")


def _spread(tp: int, ep: int) -> str | None:
    """Rule as in SGLang 0.5.23: an expert is split over `tp_size // ep_size` GPUs."""
    if tp % ep:
        return f"SGLang counts all GPUs in its --tp-size, so --ep divides --tp, as --tp {ep} --ep {ep} would"
    return None


SGLANG = Engine(
    name="sglang",
    title="SGLang",
    files=(
        "sglang/kernels/ops/moe/fused_moe_triton_kernels.py",
        "sglang/kernels/ops/quantization/int8_kernel.py",
    ),
    stand_ins=stand_ins,
    calls=SglangCalls,
    configs="sglang/srt/layers/moe/moe_runner/triton_utils/configs",
    fused=_fused,
    spread=_spread,
)
