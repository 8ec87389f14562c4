"""SGLang's fused-MoE launches with the arguments that its own code gives them.

Sequence as in SGLang 0.5.23, `srt/layers/moe/moe_runner/triton_utils/fused_moe.py`: GEMM, SiLU(gate) * up,
GEMM with router weights into a slot each, sum over slots. The sort is `moe_align_block_size.py`'s layout.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.config import Config
from autotune.engines.moe import Quantisation, entry
from autotune.problem import Layer, Stage, gemm_dims

if TYPE_CHECKING:
    import torch

    from autotune.engines.kernels import Engine


@dataclass(frozen=True)
class Sorted:
    """Token slots by expert, in blocks.

    Attributes:
        slots: int32 [padded], token * top_k + choice; the number of slots where padded.
        experts: int32 [blocks].
        padded: int32 [1], how much of `slots` counts.
    """

    slots: "torch.Tensor"
    experts: "torch.Tensor"
    padded: "torch.Tensor"


def sorted_sizes(slots: int, experts: int, block: int) -> tuple[int, int]:
    """Elements of `Sorted.slots` and blocks, as SGLang allocates them: the grid depends on it."""
    padded = slots * block if slots < experts + 1 else slots + (experts + 1) * (block - 1)
    padded = (padded + 3) // 4 * 4
    return padded, -(-padded // block)


def align(ids: "torch.Tensor", experts: int, block: int) -> Sorted:
    """Sorts the slots of a routing, by torch; not part of what is timed.

    Args:
        ids: int32 [tokens, top_k].
    """
    import torch

    flat = ids.flatten().long()
    count = flat.numel()
    size, blocks = sorted_sizes(count, experts, block)
    tokens_of = torch.bincount(flat, minlength=experts)
    blocks_of = (tokens_of + block - 1) // block
    first_row = (torch.cumsum(blocks_of, 0) - blocks_of) * block
    order = torch.argsort(flat, stable=True)
    rank = torch.arange(count, device=ids.device) - (torch.cumsum(tokens_of, 0) - tokens_of)[flat[order]]
    slots = torch.full((size,), count, dtype=torch.int32, device=ids.device)
    slots[first_row[flat[order]] + rank] = order.int()
    of_block = torch.zeros((blocks,), dtype=torch.int32, device=ids.device)
    named = torch.repeat_interleave(torch.arange(experts, device=ids.device), blocks_of).int()
    of_block[: named.numel()] = named
    padded = (blocks_of.sum() * block).int().reshape(1)
    return Sorted(slots, of_block, padded)


def invoke(
    engine: "Engine",
    quantisation: Quantisation,
    stage: Stage,
    config: Mapping[str, int],
    *,
    a: "torch.Tensor",
    w: "torch.Tensor",
    w_scale: "torch.Tensor",
    out: "torch.Tensor",
    router: "torch.Tensor",
    ids: "torch.Tensor",
    order: Sorted,
    top_k: int,
) -> None:
    """Launches one GEMM through the engine's own function, which quantises `a` first."""
    import triton.language as tl

    engine.moe.invoke_fused_moe_kernel(
        a,
        w,
        None,
        out,
        None,
        w_scale,
        None,
        router,
        ids,
        order.slots,
        order.experts,
        order.padded,
        stage is Stage.STAGE2,
        top_k if stage is Stage.STAGE1 else 1,
        dict(config),
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


def describe_launch(
    engine: "Engine", quantisation: Quantisation, layer: Layer, tokens: int, stage: Stage, config: Config
) -> None:
    """Makes the launch of a stage on tensors without storage, to be captured.

    Raises:
        UserError: this quantisation is not run yet.
    """
    import torch

    from autotune.errors import UserError

    if quantisation.dtype != "int8_w8a8":
        raise UserError(f"{quantisation.dtype} is written and verified, not run yet: use --backend sglang")
    knobs = entry(config)
    n, k = gemm_dims(layer, stage)
    slots = tokens * layer.top_k
    rows = tokens if stage is Stage.STAGE1 else slots
    size, blocks = sorted_sizes(slots, layer.experts, knobs["BLOCK_SIZE_M"])

    def empty(*shape: int, dtype: Any) -> "torch.Tensor":
        return torch.empty(shape, dtype=dtype, device="meta")

    out = empty(slots, n, dtype=torch.bfloat16)
    with quantised(engine, empty(rows, 1, dtype=torch.float32)):
        invoke(
            engine,
            quantisation,
            stage,
            knobs,
            a=empty(rows, k, dtype=torch.int8),
            w=empty(layer.experts, n, k, dtype=torch.int8),
            w_scale=empty(layer.experts, n, 1, dtype=torch.float32),
            out=out if stage is Stage.STAGE1 else out.view(tokens, layer.top_k, n),
            router=empty(tokens, layer.top_k, dtype=torch.float32),
            ids=empty(tokens, layer.top_k, dtype=torch.int32),
            order=Sorted(
                empty(size, dtype=torch.int32),
                empty(blocks, dtype=torch.int32),
                empty(1, dtype=torch.int32),
            ),
            top_k=layer.top_k,
        )


class quantised:
    """While it lasts, the engine's quantisation hands activations on that are INT8 already.

    A stage is then timed by itself, on the very integers that the numeric gate's reference has.
    """

    def __init__(self, engine: "Engine", scale: "torch.Tensor") -> None:
        self._moe, self._scale = engine.moe, scale

    def __enter__(self) -> None:
        self._own = self._moe.per_token_quant_int8
        self._moe.per_token_quant_int8 = lambda a, *_, **__: (a, self._scale)

    def __exit__(self, *_: object) -> None:
        self._moe.per_token_quant_int8 = self._own
