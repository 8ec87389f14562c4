"""An engine's fused-MoE launches, one class an engine, behind what both have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from autotune.engines.dtypes import Dtype
from autotune.engines.moe import entry
from autotune.kernels.formats import PEAKS, Format, float8
from autotune.problem.layer import Layer, Stage, gemm_dims
from autotune.space.config import Config

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sorted:
    """Token slots by expert, in blocks.

    Attributes:
        slots: int32 [padded], token * top_k + choice; the number of slots where padded. None: every slot is
            a block of its own (vLLM, few tokens).
        experts: int32 [blocks].
        padded: int32 [1], how much of `slots` counts.
    """

    slots: "torch.Tensor | None"
    experts: "torch.Tensor"
    padded: "torch.Tensor"


class EngineCalls(Protocol):
    """The parts of a layer in the order in which the engine runs them.

    Attributes:
        moe: the engine's module of kernels.
        silu_bf16: whether `activate` rounds SiLU(gate) to bfloat16 before it multiplies.
    """

    moe: Any
    silu_bf16: bool

    def slots_size(self, layer: Layer, tokens: int, block: int) -> int | None:
        """Elements of `Sorted.slots`; None: the engine does not sort so few tokens."""

    def order(self, layer: Layer, ids: "torch.Tensor", block: int, size: int) -> Sorted:
        """A routing as the engine sorts it, made by torch; not part of what is timed.

        Args:
            ids: int32 [tokens, top_k] of a `Step`.
            size: elements of `Sorted.slots`, as the engine allocates them: the grid depends on it.
        """

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
        """One GEMM.

        Args:
            a: [tokens, model_dim] at stage 1, [tokens * top_k, inter_dim] at stage 2; INT8 or float8 with its
                scales, or bfloat16 without: where the kernel takes quantised activations, the engine then
                quantises it first.
            w, w_scale: as the engine has them.
            out: bfloat16 [tokens, top_k, N].
            router: float32 [tokens, top_k].
            ids: int32 [tokens, top_k].
            top_k: experts that a token visits.

        Raises:
            UserError: the engine serves so few tokens by another kernel on this GPU.
        """

    def serves(self, tokens: int, top_k: int, experts: int) -> bool:
        """Whether the engine runs this kernel at so many tokens on this GPU."""

    def activate(self, gate_up: "torch.Tensor", out: "torch.Tensor") -> None:
        """SiLU(gate) * up: bfloat16 [tokens * top_k, 2 * inter_dim] into [tokens * top_k, inter_dim]."""

    def sum(self, contributions: "torch.Tensor", out: "torch.Tensor", ids: "torch.Tensor") -> None:
        """Sum over each token's slots: of all, or of this GPU's, where the others' were never written.

        Args:
            contributions: bfloat16 [tokens * top_k, model_dim].
            out: bfloat16 [tokens, model_dim].
            ids: int32 [tokens, top_k].
        """


def make_order(calls: EngineCalls, layer: Layer, ids: "torch.Tensor", block: int) -> Sorted:
    """A routing's order as the engine would make it.

    Args:
        ids: int32 [tokens, top_k].
        block: rows of a block.
    """
    import torch

    size = calls.slots_size(layer, len(ids), block)
    if size is not None:
        return calls.order(layer, ids, block, size)
    padded = torch.full((1,), ids.numel() * block, dtype=torch.int32, device=ids.device)
    return Sorted(None, ids.flatten(), padded)


def align(ids: "torch.Tensor", experts: int, block: int, size: int, first: int = 0) -> Sorted:
    """Sorts the slots of a routing, by torch.

    Args:
        ids: int32 [tokens, top_k]; what is not in [first, first + experts) has no block.
        size: elements of `Sorted.slots`.
        first: the smallest id that has blocks; those of a negative one are of expert -1.
    """
    import torch

    flat = ids.flatten().long() - first
    count = flat.numel()
    order = torch.argsort(flat, stable=True)
    order = order[(flat[order] >= 0) & (flat[order] < experts)]
    tokens_of = torch.bincount(flat[order], minlength=experts)
    blocks_of = (tokens_of + block - 1) // block
    first_row = (torch.cumsum(blocks_of, 0) - blocks_of) * block
    before = (torch.cumsum(tokens_of, 0) - tokens_of)[flat[order]]
    rank = torch.arange(len(order), device=ids.device) - before
    slots = torch.full((size,), count, dtype=torch.int32, device=ids.device)
    slots[first_row[flat[order]] + rank] = order.int()
    of_block = torch.zeros((-(-size // block),), dtype=torch.int32, device=ids.device)
    every = torch.arange(first, first + experts, device=ids.device).clamp(min=-1)
    named = torch.repeat_interleave(every, blocks_of).int()
    of_block[: named.numel()] = named
    padded = (blocks_of.sum() * block).int().reshape(1)
    return Sorted(slots, of_block, padded)


def describe_launch(
    calls: EngineCalls,
    dtype: Dtype,
    form: Format,
    layer: Layer,
    tokens: int,
    stage: Stage,
    config: Config,
) -> Callable[[], None]:
    """A stage's launch on tensors without storage, to be captured."""
    import torch

    knobs = entry(config)
    n, k = gemm_dims(layer, stage)
    slots = tokens * layer.top_k
    rows = tokens if stage is Stage.STAGE1 else slots

    def empty(*shape: int, dtype: Any) -> "torch.Tensor":
        return torch.empty(shape, dtype=dtype, device="meta")

    block = knobs["BLOCK_SIZE_M"]
    size = calls.slots_size(layer, tokens, block)
    order = Sorted(
        None if size is None else empty(size, dtype=torch.int32),
        empty(slots if size is None else -(-size // block), dtype=torch.int32),
        empty(1, dtype=torch.int32),
    )
    a_dtype = torch.int8 if form is Format.INT8 else float8(form) if form in PEAKS else torch.bfloat16
    w_dtype, scales = dtype.held(form), dtype.scale_shape(n, k)
    s_dtype = torch.bfloat16 if dtype.group else torch.float32
    return lambda: calls.gemm(
        stage,
        knobs,
        a=empty(rows, k, dtype=a_dtype),
        a_scale=None
        if a_dtype == torch.bfloat16
        else empty(rows, dtype.activation_scales(k), dtype=torch.float32),
        w=empty(layer.experts, n, k // 2 if w_dtype == torch.uint8 else k, dtype=w_dtype),
        w_scale=None if scales is None else empty(layer.experts, *scales, dtype=s_dtype),
        out=empty(tokens, layer.top_k, n, dtype=torch.bfloat16),
        router=empty(tokens, layer.top_k, dtype=torch.float32),
        ids=empty(tokens, layer.top_k, dtype=torch.int32),
        order=order,
        top_k=layer.top_k,
    )
