"""One kernel of a FlyDSL tree on this machine's GPU, with the arguments that AITER and the tree's tests pass.

Argument order: FlyDSL a1d8312 kernels/moe_gemm_2stage.py, FlyDSL main 11c4174d
kernels/moe/moe_gemm_2stage/{gemm1,gemm2,moe_reduce}.py and tests/kernels/test_moe_gemm_2stage.py:165-190.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.backends.flydsl.request import Request
from autotune.backends.flydsl.tree import TreeGeneration
from autotune.backends.flydsl.worker import launchers, passes
from autotune.problem.layer import Stage

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Order:
    """Slots by expert, in blocks of tile_m rows, as AITER's sort gives them.

    Attributes:
        ids: int32 [rows], slot << 24 | token; padding has slot = top_k, token = tokens.
        router: float32 [rows], the router's weights.
        experts: int32 [blocks].
        valid: int32 [1], rows of the blocks that are there.
        blocks: how many are launched: no more than slots, since each has one.
    """

    ids: "torch.Tensor"
    router: "torch.Tensor"
    experts: "torch.Tensor"
    valid: "torch.Tensor"
    blocks: int


def make_order(ids: "torch.Tensor", router: "torch.Tensor", experts: int, tile_m: int) -> Order:
    """Sorts a step, with torch: no part of any launch.

    Args:
        ids: int32 [tokens, top_k].
        router: float32 [tokens, top_k].
    """
    import torch

    (tokens, top_k), device = ids.shape, ids.device
    flat = ids.flatten().long()
    by_expert = torch.argsort(flat, stable=True)
    counts = torch.bincount(flat, minlength=experts)
    blocks = (counts + tile_m - 1) // tile_m
    first_row, first_slot = (blocks.cumsum(0) - blocks) * tile_m, counts.cumsum(0) - counts
    expert = flat[by_expert]
    rows = first_row[expert] + torch.arange(len(flat), device=device) - first_slot[expert]
    length = len(flat) + experts * tile_m - top_k
    packed = torch.full((length,), top_k << 24 | tokens, dtype=torch.int32, device=device)
    packed[rows] = ((by_expert % top_k) << 24 | by_expert // top_k).int()
    weights = torch.zeros(length, dtype=torch.float32, device=device)
    weights[rows] = router.flatten()[by_expert]
    of_block = torch.zeros(-(-length // tile_m), dtype=torch.int32, device=device)
    named = torch.repeat_interleave(torch.arange(experts, device=device), blocks)
    of_block[: len(named)] = named.int()
    valid = (blocks.sum() * tile_m).int().view(1)
    return Order(packed, weights, of_block, valid, min(len(of_block), len(flat)))


def bind(
    request: Request,
    tokens: int,
    order: Order,
    a: "tuple[torch.Tensor, torch.Tensor]",
    weights: "tuple[torch.Tensor, torch.Tensor]",
    out: "torch.Tensor",
    slots: "torch.Tensor | None",
) -> Callable[[], None]:
    """A launch of the request's kernel.

    Args:
        a: int8 activations and their float32 scales.
        weights: packed weights and their float32 scales.
        out: bfloat16 [tokens, top_k, inter_dim] in stage 1, [tokens, model_dim] in stage 2.
        slots: bfloat16 [tokens * top_k, model_dim] for FlyDSL main's `reduce`.
    """
    layer, main = request.layer, request.tree.generation is TreeGeneration.MAIN
    launcher = _launcher(request)
    reduces = request.stage is Stage.STAGE2 and request.mode == "reduce"
    x, x_scale = (t.reshape(-1) if main or request.stage is Stage.STAGE2 else t for t in a)
    sizes = (layer.inter_dim, layer.model_dim)
    if request.stage is Stage.STAGE2:
        sizes = (layer.model_dim, layer.inter_dim)
    target = out if slots is None else slots
    arguments: tuple[Any, ...] = (
        *(target, x, weights[0].view(-1), x_scale.view(-1), weights[1].view(-1)),
        *(order.ids, order.experts, order.router, order.valid, tokens, *sizes, order.blocks),
    )
    if reduces and not main:
        arguments = (*arguments, None)  # the tree's wrapper takes a mask before the stream
    reduce = _reduction(request, slots, out, tokens) if slots is not None else None

    def run() -> None:
        stream = _stream(out, main=main)
        # FlyDSL from 0.3.1 on has the hints of the context in its keys: each call finds its own kernel.
        with passes.compile_hints(dict(request.hints)):
            launcher(*arguments, stream)
        if reduce is not None:
            reduce(stream)

    return run


def _launcher(request: Request) -> Callable[..., object]:
    build: Any = launchers.builder(request.json())
    reduces = request.stage is Stage.STAGE2 and request.mode == "reduce"
    launcher: Callable[..., object]
    if reduces and request.tree.generation is TreeGeneration.PUBLISHED:
        kernels = importlib.import_module(launchers.MODULES["published"])
        given = {name: value for name, value in build.keywords.items() if name != "accumulate"}
        launcher = kernels.compile_moe_gemm2_ex(**given, mode=kernels.MoeGemm2Mode.REDUCE)
    else:
        launcher = build()
    return launcher


def _reduction(
    request: Request, slots: "torch.Tensor", out: "torch.Tensor", tokens: int
) -> Callable[[Any], None]:
    """FlyDSL main's sum over a token's slots, which takes bare pointers."""
    import flydsl.compiler as flyc
    import flydsl.expr as fx

    layer, kernels = request.layer, importlib.import_module(launchers.MODULES["main"])
    launch = kernels.compile_moe_reduction(topk=layer.top_k, model_dim=layer.model_dim, dtype_str="bf16")

    def run(stream: Any) -> None:
        source, target = (flyc.from_c_void_p(fx.Uint8, t.data_ptr()) for t in (slots, out))
        launch(source, target, source, source, tokens, stream)  # no mask: the third and fourth are not read

    return run


def _stream(out: "torch.Tensor", *, main: bool) -> Any:
    import torch

    if out.device.type == "cpu":
        return 0
    stream = torch.cuda.current_stream()
    return stream if main else stream.cuda_stream
