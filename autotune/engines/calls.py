"""An engine's fused-MoE launches, one class an engine, behind what both have in common."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from autotune.engines.moe import Quantisation, entry
from autotune.engines.order import Sorted, align
from autotune.engines.weights import scale_shape, weight_dtype
from autotune.kernels.formats import PEAKS, Format, float8
from autotune.problem.layer import Layer, Stage, gemm_dims
from autotune.space.config import Config

if TYPE_CHECKING:
    import torch


class EngineCalls(Protocol):
    """The parts of a layer in the order in which the engine runs them.

    Attributes:
        moe: the engine's module of kernels.
        silu_bf16: whether `activate` rounds SiLU(gate) to bfloat16 before it multiplies.
    """

    moe: Any
    silu_bf16: bool

    def slots_size(self, tokens: int, top_k: int, experts: int, block: int) -> int | None:
        """Elements of `Sorted.slots`; None: the engine does not sort so few tokens."""

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

        `a` is INT8 or float8 with its scales, or bfloat16 without: where the kernel takes quantised
        activations, the engine then quantises it first.

        Raises:
            UserError: the engine serves so few tokens by another kernel on this GPU.
        """

    def serves(self, tokens: int, top_k: int, experts: int) -> bool:
        """Whether the engine runs this kernel at so many tokens on this GPU."""

    def activate(self, gate_up: "torch.Tensor", out: "torch.Tensor") -> None:
        """SiLU(gate) * up."""

    def sum(self, contributions: "torch.Tensor", out: "torch.Tensor") -> None:
        """Sum over each token's slots."""


def make_order(calls: EngineCalls, ids: "torch.Tensor", experts: int, block: int) -> Sorted:
    """A routing's order as the engine would make it."""
    import torch

    size = calls.slots_size(len(ids), ids.shape[1], experts, block)
    if size is not None:
        return align(ids, experts, block, size)
    padded = torch.full((1,), ids.numel() * block, dtype=torch.int32, device=ids.device)
    return Sorted(None, ids.flatten(), padded)


def describe_launch(
    calls: EngineCalls,
    quantisation: Quantisation,
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
    size = calls.slots_size(tokens, layer.top_k, layer.experts, block)
    order = Sorted(
        None if size is None else empty(size, dtype=torch.int32),
        empty(slots if size is None else -(-size // block), dtype=torch.int32),
        empty(1, dtype=torch.int32),
    )
    a_dtype = torch.int8 if form is Format.INT8 else float8(form) if form in PEAKS else torch.bfloat16
    w_dtype, scales = weight_dtype(quantisation, form), scale_shape(quantisation, n, k)
    s_dtype = torch.bfloat16 if form is Format.GROUPED else torch.float32
    return lambda: calls.gemm(
        stage,
        knobs,
        a=empty(rows, k, dtype=a_dtype),
        a_scale=None if a_dtype == torch.bfloat16 else empty(rows, 1, dtype=torch.float32),
        w=empty(layer.experts, n, k // 2 if w_dtype == torch.uint8 else k, dtype=w_dtype),
        w_scale=None if scales is None else empty(layer.experts, *scales, dtype=s_dtype),
        out=empty(tokens, layer.top_k, n, dtype=torch.bfloat16),
        router=empty(tokens, layer.top_k, dtype=torch.float32),
        ids=empty(tokens, layer.top_k, dtype=torch.int32),
        order=order,
        top_k=layer.top_k,
    )
