"""The launches of one layer, in order: prepare (and place), stage 1, re-quantise (or stage 1 does), stage 2.

What is launched, with which tensor as which argument, is told once, for the operator and for whoever measures
the layer. No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import triton

from autotune.kernels import prepare, quantise, sort
from autotune.kernels.config import LayerDims, Stage1Config, Stage2Config
from autotune.kernels.spec import (
    Buffer,
    KernelSpec,
    buffers,
    check_tokens,
    depends,
    grid,
    make_spec,
    stage_spec,
)

GIVEN = ("x", "topk_ids", "topk_weight", "w1", "w1_scale", "w2", "w2_scale", "out")
"""The layer's own tensors, as `operator.fused_moe_w4a8` names them; all others are scratch."""


@dataclass(frozen=True)
class Link:
    """One launch.

    Attributes:
        grid: programs.
        tensors: kernel argument -> tensor of the layer: of `GIVEN`, or of the chain's `scratch`.
        numbers: the integer arguments.
    """

    spec: KernelSpec
    grid: tuple[int, int, int]
    tensors: Mapping[str, str]
    numbers: Mapping[str, int]


@dataclass(frozen=True)
class Chain:
    """A layer at a number of tokens.

    Attributes:
        scratch: tensors that the launches hand on to each other, by name.
    """

    links: tuple[Link, ...]
    scratch: Mapping[str, Buffer]


def layer_chain(
    dims: LayerDims, stage1: Stage1Config, stage2: Stage2Config, tokens: int, runtime: str
) -> Chain:
    """The launches of a layer.

    Args:
        runtime: `cuda` or `hip`.

    Raises:
        UserError: the configs cannot be compiled for these dimensions, or cannot serve so many tokens.
    """
    slots = tokens * dims.top_k
    one = stage_spec("stage1", stage1.knobs(), dims, runtime)
    two = stage_spec("stage2", stage2.knobs(), dims, runtime)
    check_tokens(one, tokens)
    check_tokens(two, tokens)
    first, second = buffers(one, tokens), buffers(two, tokens)
    how = sort.plan(tokens, dims.top_k, dims.experts)
    scratch = {
        "block_expert": first["block_expert"],
        "block_slots": first["block_slots"],
        "valid_blocks": Buffer((1,), "int32"),
        "counts": Buffer(sort.counts_shape(how, dims.experts), "int32"),
        "arrived": Buffer((1,), "int32", zeroed=True),
        **_rows("1", tokens, dims.model_dim),
        "middle": first["out"],
        **_rows("2", slots, dims.inter_dim),
        "partial1": first["partial"],
        "arrivals1": first["arrivals"],
        "finished1": first["finished"],
        # Sums that must be zeros at the start of a launch are kept apart from others, and each dtype.
        _partial2(second): second["partial"],
        "arrivals2": second["arrivals"],
    }
    numbers = {"tokens": tokens, "blocks": first["block_expert"].shape[0]}
    sorting = {
        name: name
        for name in ("block_expert", "block_slots", "valid_blocks", "counts", "arrived", "topk_ids")
    }
    quantised = {"q": "q1", "scale": "scale1", "low_sum": "low_sum1"}
    preparation = prepare_spec(stage1, dims, tokens, runtime)
    links = [Link(preparation, (how.programs + tokens, 1, 1), {**sorting, **quantised, "x": "x"}, numbers)]
    placing = place_spec(stage1, dims, tokens, runtime)
    if placing is not None:
        links.append(Link(placing, (-(-slots // how.own) + how.groups, 1, 1), sorting, numbers))
    tensors = {
        **{name: name for name in ("block_expert", "block_slots", "valid_blocks")},
        "out": "middle",
        "a": "q1",
        "a_scale": "scale1",
        "a_low_sum": "low_sum1",
        "w": "w1",
        "w_scale": "w1_scale",
        "partial": "partial1",
        "arrivals": "arrivals1",
        "q": "q2",
        "scale": "scale2",
        "low_sum": "low_sum2",
        "finished": "finished1",
        "topk_ids": "topk_ids",
    }
    links.append(Link(one, grid(one, tokens), tensors, numbers))
    if stage1.requantise == "launch":
        requantise = quantise_spec(dims.inter_dim, dims, runtime, pdl=bool(stage1.pdl))
        rows = {"q": "q2", "scale": "scale2", "low_sum": "low_sum2", "x": "middle"}
        links.append(Link(requantise, (slots, 1, 1), rows, {}))
    tensors = {
        **{name: name for name in ("block_expert", "block_slots", "valid_blocks")},
        "out": "out",
        "a": "q2",
        "a_scale": "scale2",
        "a_low_sum": "low_sum2",
        "w": "w2",
        "w_scale": "w2_scale",
        "topk_weight": "topk_weight",
        "partial": _partial2(second),
        "arrivals": "arrivals2",
    }
    links.append(Link(two, grid(two, tokens), tensors, numbers))
    return Chain(tuple(links), scratch)


def _rows(stage: str, rows: int, width: int) -> dict[str, Buffer]:
    """Where a quantiser writes."""
    return {
        f"q{stage}": Buffer((rows, width), "int8"),
        f"scale{stage}": Buffer((rows,), "float32"),
        f"low_sum{stage}": Buffer((rows,), "int32"),
    }


def _partial2(second: Mapping[str, Buffer]) -> str:
    partial = second["partial"]
    return f"partial2_{'zeroed' if partial.zeroed else partial.dtype}"


def quantise_spec(width: int, dims: LayerDims, runtime: str, *, pdl: bool = False) -> KernelSpec:
    """The quantiser of rows of `width` values (model_dim before stage 1, inter_dim between the stages)."""
    half = triton.next_power_of_2(width // 2)
    constants = {"K": width, "HALF": half, "PDL": depends(pdl, runtime)}
    warps = min(max(half // 512, 1), 8)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    return make_spec("quantise", quantise.quantise_kernel, constants, None, dims, runtime, options)


def prepare_spec(config: Stage1Config, dims: LayerDims, tokens: int, runtime: str) -> KernelSpec:
    """What comes before stage 1 with that config: the sort, or its first half, and the tokens' quantisation.

    One binary serves all token counts that `sort.plan` gives the same way and chunk.
    """
    how = sort.plan(tokens, dims.top_k, dims.experts)
    constants = {
        "K": dims.model_dim,
        "HALF": triton.next_power_of_2(dims.model_dim // 2),
        **_sort_constexprs(config.tile_m, dims, how),
        "WAY": how.way,
        "SORTERS": 0 if how.way == "count" else how.programs,
        "PDL": depends(config.pdl, runtime),
        "HIP": runtime == "hip",
    }
    options = {"num_warps": 8, "enable_fp_fusion": False}
    return make_spec("prepare", prepare.prepare_kernel, constants, None, dims, runtime, options)


def place_spec(config: Stage1Config, dims: LayerDims, tokens: int, runtime: str) -> KernelSpec | None:
    """The second half of the sort; None: so few tokens need none."""
    how = sort.plan(tokens, dims.top_k, dims.experts)
    if how.way != "count":
        return None
    constants = {
        **_sort_constexprs(config.tile_m, dims, how),
        "OWN": how.own,
        "PDL": depends(config.pdl, runtime),
    }
    return make_spec("place", sort.place_kernel, constants, None, dims, runtime, {"num_warps": 8})


def _sort_constexprs(tile_m: int, dims: LayerDims, how: sort.Plan) -> dict[str, Any]:
    return {
        "TOP_K": dims.top_k,
        "EXPERTS": dims.experts,
        "TILE_M": tile_m,
        "CHUNK": how.chunk,
        "GROUP": how.group,
    }
