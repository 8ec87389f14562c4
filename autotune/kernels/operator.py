"""The W4A8 MoE layer as an operator: sort, quantise, stage 1, re-quantise, stage 2.

Which config is launched depends on the number of tokens and comes from a file that `autotune export` wrote.
After one call at a token count (which compiles), calls at it can be captured in a graph.
"""

import os
import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import triton

from autotune.errors import UserError
from autotune.kernels.absent import absent_kernel
from autotune.kernels.chain import Chain, Link, layer_chain
from autotune.kernels.config import LayerDims, Stage2Config
from autotune.kernels.spec import Buffer, KernelSpec, compile_kernel, depends, launch, make_spec
from autotune.kernels.tuned import Gpu, TunedLayer, default_config, load_tuned

CONFIG_VARIABLE = "AUTOTUNE_MOE_CONFIG"


def fused_moe_w4a8(
    x: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    w1_scale: torch.Tensor,
    w2_scale: torch.Tensor,
    topk_weight: torch.Tensor,
    topk_ids: torch.Tensor,
    *,
    config: str | Path | TunedLayer | None = None,
    absent: bool = False,
) -> torch.Tensor:
    """One MoE layer: out[t] = sum_j topk_weight[t, j] * down(silu(gate(x[t])) * up(x[t])), INT4 weights.

    Activations are quantised to INT8 a row before each stage. Scratch memory is kept for the process and
    shared by all calls on a device: calls must not overlap, i.e. run on one stream.

    Args:
        x: bfloat16 [tokens, model_dim].
        w1: packed int8 or uint8 [experts, 2 * inter_dim, model_dim // 2], of `layout.pack_int4`; gate, then
            up.
        w2: packed int8 or uint8 [experts, model_dim, inter_dim // 2].
        w1_scale: float32 [experts, 2 * inter_dim], one scale an output channel.
        w2_scale: float32 [experts, model_dim].
        topk_weight: float32 [tokens, top_k].
        topk_ids: int32 (or another integer, then converted) [tokens, top_k], in [0, experts), distinct in a
            row.
        config: a file of `autotune export`, or a config for every token count; by default the file that
            the environment variable AUTOTUNE_MOE_CONFIG names, or the built-in default where it is unset or
            the file is for another GPU, with one warning.
        absent: ids outside [0, experts), any number in a row, are of experts that another rank has, and add
            nothing (expert parallelism). False: there must be none.

    Returns:
        bfloat16 [tokens, model_dim].

    Raises:
        UserError: shapes, dtypes or devices do not fit each other, the file is not for this layer, or there
            is no GPU.
    """
    dims = _check(x, w1, w2, w1_scale, w2_scale, topk_weight, topk_ids)
    tokens = x.shape[0]
    out = torch.empty_like(x)
    if tokens == 0:
        return out
    chosen = choose_config(dims, tokens, config)
    chain = operator_chain(dims, chosen, tokens, _runtime(x), absent)
    scratch = _Workspace.of(x.device, tokens, dims, chosen.stage1.tile_m)
    tensors = {
        "x": x.contiguous(),
        "topk_ids": topk_ids.to(torch.int32).contiguous(),
        "topk_weight": topk_weight.contiguous(),
        "w1": w1.view(torch.int8),
        "w1_scale": w1_scale,
        "w2": w2.view(torch.int8),
        "w2_scale": w2_scale,
        "out": out,
        **{name: scratch.take(name, buffer) for name, buffer in chain.scratch.items()},
    }
    for link in chain.links:
        _run(link, {**link.numbers, **{argument: tensors[name] for argument, name in link.tensors.items()}})
    return out


def choose_config(dims: LayerDims, tokens: int, config: str | Path | TunedLayer | None = None) -> TunedLayer:
    """The config that `fused_moe_w4a8` launches.

    Entries that were tuned for another GPU are not used: the default is, and a warning says so once.

    Raises:
        UserError: the file is unreadable or for another layer.
    """
    if isinstance(config, TunedLayer):
        return config
    path = config or os.environ.get(CONFIG_VARIABLE)
    if not path:
        return default_config(tokens, dims, this_arch())
    tuned = load_tuned(Path(path))
    if tuned.dims != dims:
        raise UserError(
            f"{path} was tuned for {tuned.dims}, but the layer is {dims}: export a config for this layer"
        )
    here = this_gpu()
    reason = None if here is None else tuned.refusal(here)
    if reason is not None:
        _warn(f"the built-in default is launched: {path} {reason}")
        return default_config(tokens, dims, this_arch())
    return tuned.at(tokens, this_arch())


@lru_cache(maxsize=16)
def _warn(message: str) -> None:
    """Says it once a process, whatever the filters of warnings are: each layer of each step comes here."""
    warnings.warn(message, RuntimeWarning, stacklevel=4)


@lru_cache(maxsize=1)
def this_gpu() -> Gpu | None:
    """The GPU here; None: kernels are interpreted, or the call will be refused for want of one."""
    if _interpreted() or not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    # Containers may hide the name; an exported file has what the run saw, by the same rule.
    name = torch.cuda.get_device_name(0) or str(getattr(properties, "gcnArchName", ""))
    return Gpu(name, properties.multi_processor_count)


def _check(
    x: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    w1_scale: torch.Tensor,
    w2_scale: torch.Tensor,
    topk_weight: torch.Tensor,
    topk_ids: torch.Tensor,
) -> LayerDims:
    if x.dim() != 2 or w1.dim() != 3 or w2.dim() != 3 or topk_ids.dim() != 2:
        raise UserError("x and topk_ids must have 2 dimensions, w1 and w2 three")
    tokens, model_dim = x.shape
    experts, doubled, _ = w1.shape
    inter_dim = doubled // 2
    top_k = topk_ids.shape[1]
    byte = (torch.int8, torch.uint8)
    expected = {
        "x": (x, (tokens, model_dim), (torch.bfloat16,)),
        "w1": (w1, (experts, 2 * inter_dim, model_dim // 2), byte),
        "w2": (w2, (experts, model_dim, inter_dim // 2), byte),
        "w1_scale": (w1_scale, (experts, 2 * inter_dim), (torch.float32,)),
        "w2_scale": (w2_scale, (experts, model_dim), (torch.float32,)),
        "topk_weight": (topk_weight, (tokens, top_k), (torch.float32,)),
        "topk_ids": (topk_ids, (tokens, top_k), (torch.int32, torch.int64, torch.uint32, torch.int16)),
    }
    for name, (tensor, shape, dtypes) in expected.items():
        if tuple(tensor.shape) != shape:
            raise UserError(
                f"{name} has shape {list(tensor.shape)}: with the other arguments it must be {list(shape)}"
            )
        if tensor.dtype not in dtypes:
            raise UserError(f"{name} is {tensor.dtype}: it must be {' or '.join(map(str, dtypes))}")
        if tensor.device != x.device:
            raise UserError(f"{name} is on {tensor.device} and x on {x.device}: put them on one device")
        if name.startswith("w") and not tensor.is_contiguous():
            raise UserError(f"{name} is not contiguous: call .contiguous() once when loading the weights")
    # Kernels index activations with 32 bits; partial sums and weights with 64.
    if tokens * top_k * max(inter_dim, 1) >= 1 << 31 or tokens * model_dim >= 1 << 31:
        raise UserError(f"{tokens} tokens are more than one call can index: split them")
    return LayerDims(model_dim, inter_dim, experts, top_k)


def _runtime(x: torch.Tensor) -> str:
    if _interpreted():
        return "cuda"
    if not x.is_cuda:
        raise UserError(f"x is on {x.device}: the kernels need a ROCm or CUDA device")
    return "hip" if torch.version.hip else "cuda"


@lru_cache(maxsize=1)
def this_arch() -> str:
    """As `autotune.machine.devices` spells it; the interpreter's has no feature of a GPU."""
    if _interpreted() or not torch.cuda.is_available():
        return "sm_80"
    properties = torch.cuda.get_device_properties(0)
    if torch.version.hip:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def _interpreted() -> bool:
    return bool(triton.knobs.runtime.interpret)


@lru_cache(maxsize=256)
def operator_chain(dims: LayerDims, config: TunedLayer, tokens: int, runtime: str, absent: bool) -> Chain:
    """The layer's launches, with one more before stage 2 where that must be told of absent experts."""
    chain = layer_chain(dims, config.stage1, config.stage2, tokens, runtime)
    if not absent or config.stage2.reduce == "loop":  # whose sum has no part of them anyway
        return chain
    *before, last = chain.links
    tensors = {**last.tensors, "topk_ids": "topk_ids"}
    counted = Link(absent_spec(config.stage2, dims, runtime), (tokens, 1, 1), tensors, {})
    return replace(chain, links=(*before, counted, last))


def absent_spec(config: Stage2Config, dims: LayerDims, runtime: str) -> KernelSpec:
    """What comes before stage 2 with that config where some experts are not here."""
    constants = {
        "MODEL_DIM": dims.model_dim,
        "TOP_K": dims.top_k,
        "EXPERTS": dims.experts,
        "N_TILES": triton.cdiv(dims.model_dim, config.tile_n),
        "SPLIT_K": config.split_k,
        "WIDTH": 1024,
        "ATOMIC": config.reduce == "atomic",
        "BF16": config.partials == "bfloat16",
        "PDL": depends(config.pdl, runtime),
        "HIP": runtime == "hip",
    }
    return make_spec("absent", absent_kernel, constants, None, dims, runtime, {"num_warps": 4})


_compiled: dict[tuple[str, int], Any] = {}


def _run(link: Link, values: dict[str, Any]) -> None:
    if _interpreted():
        launch(link.spec, None, link.grid, values)
        return
    device = torch.cuda.current_device()
    kernel = _compiled.get((link.spec.name, device))
    if kernel is None:
        kernel = compile_kernel(link.spec, triton.runtime.driver.active.get_current_target())
        _compiled[link.spec.name, device] = kernel
    launch(link.spec, kernel, link.grid, values)


class _Workspace:
    """Scratch of one device and token capacity. Never freed: a captured graph holds its addresses."""

    def __init__(self, device: torch.device, growth: float) -> None:
        self._device = device
        self._growth = growth
        self._held: dict[str, torch.Tensor] = {}

    @classmethod
    def of(cls, device: torch.device, tokens: int, dims: LayerDims, tile_m: int) -> "_Workspace":
        # By powers of two, so that the sum over all token counts stays below twice the largest.
        capacity = triton.next_power_of_2(tokens)
        key = (device, capacity, dims, tile_m)
        if key not in _workspaces:
            _workspaces[key] = cls(device, capacity / tokens)
        return _workspaces[key]

    def take(self, name: str, buffer: Buffer) -> torch.Tensor:
        """A tensor of that shape; its content is what the last call left there."""
        held = self._held.get(name)
        if held is None or held.numel() < buffer.elements:
            self._retire(name)
            make = torch.zeros if buffer.zeroed else torch.empty
            size = int(buffer.elements * self._growth) + 1
            held = make(size, dtype=getattr(torch, buffer.dtype), device=self._device)
            self._held[name] = held
        return held[: buffer.elements].view(buffer.shape)

    def _retire(self, name: str) -> None:
        # A smaller one may be in a captured graph.
        if name in self._held:
            self._held[f"{name}#{len(self._held)}"] = self._held.pop(name)


_workspaces: dict[tuple[torch.device, int, LayerDims, int], _Workspace] = {}
