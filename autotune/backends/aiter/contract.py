"""Whether a given AITER and FlyDSL still are what the adapter relies on: read from their sources, not run.

Each function returns what no longer fits, one sentence each; an empty list is a source that fits.
"""

import ast
import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from autotune.backends.aiter.knobs import MODE_VARIABLE, TILE_VARIABLES, TRIM_VARIABLE
from autotune.backends.aiter.source import AiterGeneration
from autotune.backends.aiter_main.csv import KEY_COLUMNS
from autotune.backends.flydsl.request import GATES
from autotune.problem.layer import Stage

_SORT = ("topk_ids", "topk_weights", "num_experts", "model_dim", "moebuf_dtype", "block_size")
_COMMON = ("sorted_token_ids", "sorted_expert_ids", "num_valid_ids", "out", "topk")

# The parameters that we pass, in the order of those that we pass by position.
AITER_FUNCTIONS: Mapping[AiterGeneration, Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    AiterGeneration.PUBLISHED: {
        "fused_moe.py": {
            "moe_sorting": _SORT,
            "fused_moe": ("hidden_states", "w1", "w2", "topk_weight", "topk_ids"),
            "flydsl_moe_stage1": ("hidden_states", "w1", "w2", *_COMMON),
            "flydsl_moe_stage2": ("a2", "w1", "w2", *_COMMON),
        }
    },
    AiterGeneration.MAIN: {
        "fused_moe.py": {
            "moe_sorting": _SORT,
            "fused_moe": ("hidden_states", "w1", "w2", "topk_weight", "topk_ids"),
            "use_nt": ("token", "topk", "e"),
        },
        "ops/moe_op.py": {
            "ck_moe_stage1_fwd": ("hidden_states", "w1", "w2", *_COMMON, "kernelName"),
            "ck_moe_stage2_fwd": ("inter_states", "w1", "w2", *_COMMON, "kernelName"),
        },
        "ops/quant.py": {"get_hip_quant": ("qType",), "per_token_quant_hip": ("x", "scale", "quant_dtype")},
        "ops/flydsl/moe_kernels.py": {
            "flydsl_moe_stage1": ("a", "w1", *_COMMON),
            "flydsl_moe_stage2": ("inter_states", "w2", *_COMMON),
            "get_flydsl_kernel_params": ("name",),
        },
        "ops/flydsl/kernels/moe_2stage_a16wmix/gemm1.py": {"compile_gemm1_a16w4_port": ("BM",)},
        "ops/flydsl/kernels/moe_2stage_a16wmix/gemm2.py": {"compile_gemm2_a16w4_port": ("BM",)},
    },
}
_AITER_KEYWORDS = {
    "fused_moe": {"activation", "quant_type", "w1_scale", "w2_scale"},
    "flydsl_moe_stage1": {"a1_scale", "w1_scale"},
    "flydsl_moe_stage2": {"w2_scale", "a2_scale", "sorted_weights"},
}
_CK_KEYWORDS = {"block_m", "sorted_weights", "quant_type", "activation", "use_non_temporal_load"}
_GROUPED_KEYWORDS = {"tile_m", "tile_n", "tile_k", "a_dtype", "b_dtype", "out_dtype", "sorted_weights"}
_MIX_KEYWORDS = {"NE", "D_INTER", "TILE_N", "TILE_K", "b_cache_mod", "xcd_swizzle", "waves_per_eu"}
_MIX_KEYWORDS |= {"w_dtype", "use_k16"}
_MAIN_KEYWORDS = {
    "compile_gemm1_a16w4_port": _MIX_KEYWORDS | {"D_HIDDEN", "TOPK", "act", "w_layout", "k_wave"},
    "compile_gemm2_a16w4_port": _MIX_KEYWORDS | {"N_OUT"},
    "ck_moe_stage1_fwd": _CK_KEYWORDS | {"w1_scale", "a1_scale", "splitk", "dst_type"},
    "ck_moe_stage2_fwd": _CK_KEYWORDS | {"w2_scale", "a2_scale"},
    "flydsl_moe_stage1": _GROUPED_KEYWORDS | {"w1_scale", "k_wave", "b_nt"},
    "flydsl_moe_stage2": _GROUPED_KEYWORDS | {"w2_scale", "mode"},
}
AITER_VARIABLES: Mapping[str, str | None] = {
    "AITER_W4A8_USE_INT8": "0",
    "AITER_USE_FLYDSL_MOE": "1",
    "AITER_ENFORCE_DSL": "1",
    "DSL2_ROOT": None,
    MODE_VARIABLE: "atomic",
    TRIM_VARIABLE: "1",
    **{name: "" for tiles in TILE_VARIABLES.values() for name in tiles.values()},
}
"""Names that AITER's published generation must read, with their defaults."""

_TILES = {"tile_m", "tile_n", "tile_k"}
_SHAPE = {"model_dim", "inter_dim", "experts", "topk"}
FLYDSL_PARAMETERS = {
    "compile_moe_gemm1": _SHAPE | _TILES | {"doweight_stage1", "in_dtype", "out_dtype"},
    "compile_moe_gemm2": _SHAPE | _TILES | {"doweight_stage2", "in_dtype", "out_dtype", "accumulate"},
}


def check_aiter(package: Path, generation: AiterGeneration) -> list[str]:
    """What of an AITER's folder `aiter/` does not fit."""
    misfits: list[str] = []
    for file, functions in AITER_FUNCTIONS.get(generation, {}).items():
        tree = _parsed(package / file)
        if tree is None:
            misfits.append(f"{file} is missing or no Python")
            continue
        keywords = _MAIN_KEYWORDS if generation is AiterGeneration.MAIN else {}
        misfits += _functions(tree, file, functions, {**_AITER_KEYWORDS, **keywords})
        if generation is AiterGeneration.PUBLISHED:
            misfits += _variables(tree, file, AITER_VARIABLES)
            misfits += _defaults(tree, file)
    return [*misfits, *_tables(package / "configs")]


def check_flydsl(root: Path, *, gates: bool) -> list[str]:
    """What of a FlyDSL tree does not fit.

    Args:
        gates: it is of the published generation, which has them.
    """
    if gates:
        files = [root / "kernels/moe_gemm_2stage.py"]
    else:
        files = sorted((root / "kernels/moe/moe_gemm_2stage").glob("*.py"))
    trees = [tree for tree in map(_parsed, files) if tree is not None]
    misfits: list[str] = []
    for name, wanted in FLYDSL_PARAMETERS.items():
        function = next((f for tree in trees if (f := _function(tree, name)) is not None), None)
        if function is None:
            misfits.append(f"FlyDSL has no {name}")
            continue
        missing = sorted(wanted - set(_parameters(function)))
        if missing:
            misfits.append(f"FlyDSL's {name} has no parameter {', '.join(missing)}")
    if gates and trees:
        misfits += _variables(trees[0], files[0].name, dict.fromkeys(GATES.values(), "1"))
    return misfits


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # the last of null bytes, too
        return None


def _function(tree: ast.AST, name: str) -> ast.FunctionDef | None:
    return next((n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name), None)


def _parameters(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _functions(
    tree: ast.AST, file: str, wanted: Mapping[str, tuple[str, ...]], keywords: Mapping[str, set[str]]
) -> Iterable[str]:
    for name, positional in wanted.items():
        function = _function(tree, name)
        if function is None:
            yield f"{file} has no function {name}"
            continue
        parameters = _parameters(function)
        if tuple(parameters[: len(positional)]) != positional:
            yield f"{file}: {name} begins with ({', '.join(parameters[: len(positional)])})"
        missing = sorted(keywords.get(name, set()) - set(parameters))
        if missing:
            yield f"{file}: {name} has no parameter {', '.join(missing)}"


def environment_reads(tree: ast.AST) -> dict[str, set[object]]:
    """Environment variables that a module reads by literal names, with the defaults that it gives them."""
    reads: dict[str, set[object]] = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
            continue
        if ast.unparse(node.func) in ("os.environ.get", "os.getenv", "_env_bool"):
            given = node.args[1] if len(node.args) > 1 else None
            default = given.value if isinstance(given, ast.Constant) else None
            reads.setdefault(str(node.args[0].value), set()).add(default)
    return reads


def _variables(tree: ast.AST, file: str, wanted: Mapping[str, str | None]) -> Iterable[str]:
    reads = environment_reads(tree)
    for name, default in wanted.items():
        if name not in reads:
            yield f"{file} does not read {name}"
        elif default not in reads[name]:
            yield f"{file} defaults {name} to {sorted(map(repr, reads[name]))}, not to {default!r}"


def _defaults(tree: ast.AST, file: str) -> Iterable[str]:
    """AITER's default tiles, the rule for a block's rows, and the padding of the token count."""
    for stage, tile_n, tile_k in ((Stage.STAGE1, 64, None), (Stage.STAGE2, 256, 64)):
        function = _function(tree, f"flydsl_moe_{stage}")
        for name, wanted in (("tile_n", tile_n), ("tile_k", tile_k)):
            given = _first_constant(function, name) if function else None
            if wanted is not None and given != wanted:
                yield f"{file}: flydsl_moe_{stage} begins with {name} = {given}, not {wanted}"
    for name, wanted_bounds in (("get_dsl_block_m", {1024, 128}), ("get_padded_M", {1024, 2048, 16384})):
        function = _function(tree, name)
        bounds = {int(n) for n in re.findall(r"\b\d{3,}\b", ast.unparse(function))} if function else set()
        if not wanted_bounds <= bounds:
            yield f"{file}: {name} has the bounds {sorted(bounds)}, not {sorted(wanted_bounds)}"


def _first_constant(function: ast.FunctionDef, name: str) -> object:
    """The constant that a function first assigns to a name."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value.value if isinstance(node.value, ast.Constant) else None
    return None


def _tables(configs: Path) -> Iterable[str]:
    for table in sorted(configs.rglob("*tuned_fmoe*.csv")):
        if "untuned" in table.name:
            continue
        with table.open(encoding="utf-8", errors="replace", newline="") as file:
            try:
                columns = next(csv.reader(file), [])
            except csv.Error as error:
                yield f"{table.name} is not a table ({error})"
                continue
        missing = [name for name in (*KEY_COLUMNS, "kernelName1", "kernelName2") if name not in columns]
        if missing:
            yield f"{table.name} has no column {', '.join(missing)}"
