"""Specifies all that must be compiled for a config, compiles it, and launches it.

A `KernelSpec` holds everything that `triton.compile` is given, so a binary that a worker compiled, one that
was cross-compiled without a GPU, and the one that is launched are the same. Use:

    spec = stage_spec("stage1", {"tile_n": 64, ...}, layer, "cuda")
    compiled = compile_kernel(spec, GPUTarget("cuda", 90, 32))       # no GPU and no torch needed
    arguments = {"out": out, "a": a, ...}                            # a tensor for each of spec.run_time
    launch(spec, compiled, grid(spec, tokens), arguments)

One binary serves every number of tokens: tokens are no part of a spec. The order in `KernelSpec.run_time` is
the kernel's own; `buffers` says which shapes and dtypes the arguments have and which must start as zeros.
No torch at import time.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from autotune.errors import UserError
from autotune.kernels import stage1, stage2
from autotune.kernels.config import Dims, LayerDims, Stage1Config, Stage2Config
from autotune.kernels.sort import TOKEN_ROWS, max_blocks

STAGES = ("stage1", "stage2")

_TYPES = {
    "out": "*bf16",
    "a": "*i8",
    "a_scale": "*fp32",
    "a_low_sum": "*i32",
    "w": "*i8",
    "w_scale": "*fp32",
    "topk_weight": "*fp32",
    "topk_ids": "*i32",
    "block_expert": "*i32",
    "block_slots": "*i32",
    "valid_blocks": "*i32",
    "counts": "*i32",
    "arrived": "*i32",
    "arrivals": "*i32",
    "q": "*i8",
    "scale": "*fp32",
    "low_sum": "*i32",
    "finished": "*i32",
    "x": "*bf16",
    "tokens": "i32",
    "blocks": "i32",
}


@dataclass(frozen=True)
class Buffer:
    """A tensor that a kernel is launched with.

    Attributes:
        shape: elements a dimension.
        dtype: the name of a torch dtype.
        zeroed: must be zeros before the first launch; every launch leaves zeros behind.
    """

    shape: tuple[int, ...]
    dtype: str
    zeroed: bool = False

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class KernelSpec:
    """One kernel to compile.

    Attributes:
        name: short and unique to the spec's content, for logs and file names.
        stage: `stage1`, `stage2`, `quantise`, `prepare`, `place` or `absent`.
        fn: the `triton.jit` function.
        signature: argument name -> Triton type, `constexpr` for the compile-time ones; in the kernel's order.
        constexprs: compile-time arguments.
        attrs: argument position -> Triton attributes: every pointer is aligned to 16 bytes, with
            `buffer_loads` some are said to end below 2 GiB, no integer is specialised on.
        options: compile options; a knob that is unset is not among them.
        config: the stage's typed config; None for the others.
        dims: the layer.
    """

    name: str
    stage: str
    fn: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    attrs: Mapping[tuple[int, ...], list[list[Any]]]
    options: Mapping[str, Any]
    config: Stage1Config | Stage2Config | None
    dims: LayerDims

    @property
    def run_time(self) -> tuple[str, ...]:
        """The run-time arguments, in the kernel's order: tensors, and the ints `tokens` and `blocks`."""
        return tuple(name for name, kind in self.signature.items() if kind != "constexpr")


def stage_spec(stage: str, config: Mapping[str, Any], dims: Dims, runtime: str) -> KernelSpec:
    """The kernel of a stage.

    Args:
        stage: `stage1` or `stage2`.
        config: knobs by name, as in `search_spaces/triton/`; None (unset) leaves a compile option out.
        dims: the layer: `LayerDims`, or anything with model_dim, inter_dim, experts and top_k.
        runtime: `cuda` or `hip`; the other runtime's own knobs are left out.

    Raises:
        UserError: a knob is unknown, or the config cannot be compiled for these dimensions.
    """
    layer = LayerDims(dims.model_dim, dims.inter_dim, dims.experts, dims.top_k)
    if runtime == "hip" and config.get("tile_m") == 8:
        raise UserError("tile_m=8 needs NVIDIA: no MFMA takes fewer than 16 rows of INT8")
    if stage == "stage1":
        one = Stage1Config.of(config)
        return make_spec(stage, stage1.stage1_kernel, _stage1_constexprs(one, layer), one, layer, runtime)
    if stage == "stage2":
        two = Stage2Config.of(config)
        fn = stage2.stage2_loop_kernel if two.reduce == "loop" else stage2.stage2_tile_kernel
        return make_spec(stage, fn, _stage2_constexprs(two, layer), two, layer, runtime)
    raise UserError(f"{stage!r} is no stage: use {' or '.join(STAGES)}")


def depends(pdl: bool | None, runtime: str) -> bool:
    """Whether a kernel is launched as dependent on the one before it; the interpreter knows no such thing."""
    return bool(pdl) and runtime == "cuda" and not triton.knobs.runtime.interpret


def compile_kernel(spec: KernelSpec, target: GPUTarget) -> Any:
    """Compile for `target`; needs neither the GPU nor torch. Goes through Triton's own disk cache.

    Returns:
        Triton's compiled kernel: `.asm`, `.metadata`, and `[grid](*args)` on a machine with the GPU.

    Raises:
        UserError: the installed Triton lacks a compile option that the config sets.
        Exception: whatever the compiler raises on a config that it cannot compile.
    """
    unknown = sorted(set(spec.options) - compile_options(target))
    if unknown:
        raise UserError(
            f"Triton {triton.__version__} has no compile option {unknown[0]} for {target.backend}:"
            " leave the knob unset or install a newer Triton"
        )
    source = ASTSource(spec.fn, dict(spec.signature), dict(spec.constexprs), dict(spec.attrs))
    return triton.compile(source, target=target, options=dict(spec.options))


def compile_options(target: GPUTarget) -> frozenset[str]:
    """Names of the compile options that the installed Triton has for `target`."""
    backend = triton.compiler.make_backend(target)
    return frozenset(field.name for field in dataclasses.fields(backend.parse_options({})))


def grid(spec: KernelSpec, tokens: int) -> tuple[int, int, int]:
    """A stage's launch grid at `tokens` tokens."""
    assert spec.config is not None
    n_tiles = _n_tiles(spec)
    if isinstance(spec.config, Stage2Config) and spec.config.reduce == "loop":
        return (n_tiles * spec.config.split_blocks, 1, 1)
    blocks = max_blocks(tokens, spec.dims.top_k, spec.dims.experts, spec.config.tile_m)
    return (blocks * n_tiles * spec.config.split_k, 1, 1)


def buffers(spec: KernelSpec, tokens: int) -> dict[str, Buffer]:
    """Shapes and dtypes of a stage's tensor arguments at `tokens` tokens, by argument name.

    `partial` and `arrivals` are scratch: they may be larger, and may be shared by every launch that does not
    overlap another. The experts of `w` and `w_scale` may be more than the layer's: the kernel does not look
    (with `buffer_loads` as long as `w` is below 2 GiB). Raises UserError where the kernel is no stage's.
    """
    layer, config = spec.dims, spec.config
    if config is None:
        raise UserError(f"{spec.name} is no stage: its caller knows its buffers")
    slots = tokens * layer.top_k
    blocks = max_blocks(tokens, layer.top_k, layer.experts, config.tile_m)
    n_tiles, split = _n_tiles(spec), config.split_k
    sorted_slots = {
        "block_expert": Buffer((blocks,), "int32"),
        "block_slots": Buffer((blocks, config.tile_m), "int32"),
    }
    if isinstance(config, Stage1Config):
        last = config.requantise == "last"
        return {
            "out": Buffer((slots, layer.inter_dim), "bfloat16"),
            "a": Buffer((tokens, layer.model_dim), "int8"),
            "a_scale": Buffer((tokens,), "float32"),
            "a_low_sum": Buffer((tokens,), "int32"),
            "w": Buffer((layer.experts, 2 * layer.inter_dim, layer.model_dim // 2), "int8"),
            "w_scale": Buffer((layer.experts, 2 * layer.inter_dim), "float32"),
            **sorted_slots,
            "partial": Buffer((slots, split, n_tiles * config.tile_n) if split > 1 else (1,), "int32"),
            "arrivals": Buffer((blocks, n_tiles) if split > 1 else (1,), "int32", zeroed=True),
            "q": Buffer((slots, layer.inter_dim) if last else (1, 1), "int8"),
            "scale": Buffer((slots,) if last else (1,), "float32"),
            "low_sum": Buffer((slots,) if last else (1,), "int32"),
            "finished": Buffer((blocks,) if last else (1,), "int32", zeroed=True),
            "topk_ids": Buffer((tokens, layer.top_k), "int32"),
        }
    assert isinstance(config, Stage2Config)
    shapes = {
        "out": Buffer((tokens, layer.model_dim), "bfloat16"),
        "a": Buffer((slots, layer.inter_dim), "int8"),
        "a_scale": Buffer((slots,), "float32"),
        "a_low_sum": Buffer((slots,), "int32"),
        "topk_weight": Buffer((slots,), "float32"),
        "w": Buffer((layer.experts, layer.model_dim, layer.inter_dim // 2), "int8"),
        "w_scale": Buffer((layer.experts, layer.model_dim), "float32"),
        **sorted_slots,
    }
    if config.reduce == "loop":
        parts = config.split_blocks
        return {
            **shapes,
            "valid_blocks": Buffer((1,), "int32"),
            "partial": Buffer((parts, config.tile_m, layer.model_dim) if parts > 1 else (1,), "float32"),
            "arrivals": Buffer((n_tiles,), "int32", zeroed=True),
        }
    atomic = config.reduce == "atomic"
    part = (tokens, layer.model_dim) if atomic else (slots, split, layer.model_dim)
    return {
        **shapes,
        "partial": Buffer(part, config.partials, zeroed=atomic),
        "arrivals": Buffer((tokens, n_tiles), "int32", zeroed=True),
    }


def check_tokens(spec: KernelSpec, tokens: int) -> None:
    """Raises UserError when the compiled config cannot serve `tokens` tokens."""
    config = spec.config
    if isinstance(config, Stage2Config) and config.reduce == "loop" and tokens > TOKEN_ROWS:
        raise UserError(
            f"reduce=loop serves up to {TOKEN_ROWS} tokens, not {tokens}: use reduce=arrive or atomic"
        )
    if config is not None and tokens > config.tile_m and config.tile_m < TOKEN_ROWS:
        raise UserError(f"tile_m={config.tile_m} serves up to {config.tile_m} tokens, not {tokens}: use 16")


def launch(
    spec: KernelSpec, compiled: Any, blocks: tuple[int, int, int], arguments: Mapping[str, Any]
) -> None:
    """Launch on torch's current stream; can be captured in a graph.

    Args:
        compiled: of `compile_kernel`; None under Triton's interpreter, which compiles nothing.
        blocks: of `grid`.
        arguments: the run-time arguments by name; others are ignored.
    """
    bind(spec, compiled, blocks, arguments)()


def bind(
    spec: KernelSpec, compiled: Any, blocks: tuple[int, int, int], arguments: Mapping[str, Any]
) -> Callable[[], None]:
    """A launch with all that it takes looked up, for launching often; arguments as `launch`'s."""
    if compiled is None:
        values = {name: arguments[name] for name in spec.run_time}
        return partial(spec.fn[blocks], **values, **spec.constexprs)
    # Triton's launcher takes every argument in order and skips the compile-time ones.
    return partial(compiled[blocks], *(arguments.get(name) for name in spec.signature))


def _stage1_constexprs(config: Stage1Config, layer: LayerDims) -> dict[str, Any]:
    _check_tiles(config, layer.model_dim)
    return {
        "K": layer.model_dim,
        "INTER": layer.inter_dim,
        "TOP_K": layer.top_k,
        "EXPERTS": layer.experts,
        **_tile_constexprs(config),
        "REQUANTISE": config.requantise == "last",
        "PREFETCH": config.prefetch or 0,
    }


def _stage2_constexprs(config: Stage2Config, layer: LayerDims) -> dict[str, Any]:
    _check_tiles(config, layer.inter_dim)
    shared = {"MODEL_DIM": layer.model_dim, "K": layer.inter_dim}
    tiles = _tile_constexprs(config)
    if config.reduce == "loop":
        for name in ("SPLIT_K", "GROUP", "XCDS"):
            del tiles[name]
        return {
            **shared,
            **tiles,
            "SPLIT_BLOCKS": config.split_blocks,
            "NUM_STAGES": config.num_stages,
        }
    tiles["BF16"] = config.partials == "bfloat16"
    return {**shared, "TOP_K": layer.top_k, **tiles, "ATOMIC": config.reduce == "atomic"}


def _tile_constexprs(config: Stage1Config | Stage2Config) -> dict[str, Any]:
    return {
        "TILE_M": config.tile_m,
        "TILE_N": config.tile_n,
        "TILE_K": config.tile_k,
        "SPLIT_K": config.split_k,
        "GROUP": config.group,
        "XCDS": config.xcds or 1,
        "W_CACHE": ".cg" if config.w_cache == "cg" else "",
        "W_EVICT": "evict_first" if config.w_cache == "first" else "",
    }


def _check_tiles(config: Stage1Config | Stage2Config, k: int) -> None:
    for name, least in (("tile_m", 8), ("tile_n", 16), ("tile_k", 64)):
        value = getattr(config, name)
        if value < least or value & (value - 1):
            raise UserError(f"{name}={value}: it must be a power of two, {least} or more")
    k_tiles = -(-k // config.tile_k)
    if config.split_k < 1 or k_tiles % config.split_k:
        raise UserError(
            f"split_k={config.split_k} does not divide the {k_tiles} steps of K={k} by tile_k={config.tile_k}"
        )


def _n_tiles(spec: KernelSpec) -> int:
    assert spec.config is not None
    columns = 2 * spec.dims.inter_dim if spec.stage == "stage1" else spec.dims.model_dim
    return -(-columns // spec.config.tile_n)


def make_spec(
    stage: str,
    fn: Any,
    constexprs: dict[str, Any],
    config: Stage1Config | Stage2Config | None,
    layer: LayerDims,
    runtime: str,
    options: dict[str, Any] | None = None,
) -> KernelSpec:
    """A kernel with what every kernel's arguments are; options are the config's where there is one."""
    if runtime not in ("cuda", "hip"):
        raise UserError(f"{runtime!r} is no GPU runtime that Triton compiles for: use cuda or hip")
    if config is not None:
        options = _options(config, runtime)
        if runtime != "hip" and "XCDS" in constexprs:
            constexprs["XCDS"] = 1
        constexprs["PDL"] = depends(config.pdl, runtime)
        if "PREFETCH" in constexprs and not constexprs["PDL"]:
            constexprs["PREFETCH"] = 0  # nothing to do ahead of
        constexprs["HIP"] = runtime == "hip"
    options = dict(options or {})
    if constexprs["PDL"]:
        options["launch_pdl"] = True
    # `partial` holds integers in stage 1 and float32 in stage 2.
    types = {**_TYPES, "partial": "*i32" if stage == "stage1" else "*fp32"}
    if constexprs.get("BF16"):
        types["partial"] = "*bf16"
    names = fn.arg_names
    signature = {name: "constexpr" if name in constexprs else types[name] for name in names}
    small = _below_2_gib(stage, layer) if runtime == "hip" and config and config.buffer_loads else ()
    attrs: dict[tuple[int, ...], list[list[Any]]] = {
        (index,): [["tt.divisibility", 16], *([["tt.pointer_range", 32]] if name in small else [])]
        for index, name in enumerate(names)
        if signature[name].startswith("*")
    }
    ordered = {name: constexprs[name] for name in names if name in constexprs}
    content = f"{fn.__name__}{signature}{ordered}{sorted(options.items())}{sorted(small)}"
    name = f"{stage}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    return KernelSpec(name, stage, fn, signature, ordered, attrs, options, config, layer)


def _below_2_gib(stage: str, layer: LayerDims) -> frozenset[str]:
    """What a stage reads and cannot be 2 GiB long: the operator refuses more than 2^31 activations."""
    names = {"a", "a_scale", "a_low_sum", "topk_weight", "w_scale"}
    names |= {"block_expert", "block_slots", "valid_blocks"}
    rows = 2 * layer.inter_dim if stage == "stage1" else layer.model_dim
    width = layer.model_dim if stage == "stage1" else layer.inter_dim
    if layer.experts * rows * (width // 2) < 1 << 31:
        names.add("w")
    return frozenset(names)


def _options(config: Stage1Config | Stage2Config, runtime: str) -> dict[str, Any]:
    options: dict[str, Any] = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    if isinstance(config, Stage1Config) and config.requantise == "last":
        options["enable_fp_fusion"] = False  # see quantise.py
    if runtime == "hip":
        for name in ("waves_per_eu", "matrix_instr_nonkdim", "kpack"):
            if (value := getattr(config, name)) is not None:
                options[name] = value
        if config.sched_strategy is not None:
            options["llvm_fn_attrs"] = f"amdgpu-sched-strategy={config.sched_strategy}"
    return options
