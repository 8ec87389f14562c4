"""Spaces of AITER main's INT4 kernels, and what can be told of a candidate without the GPU."""

import ast
import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from autotune.backends.aiter.pack import flydsl_misfit
from autotune.backends.aiter.source import AiterGeneration, find_package, generation_of
from autotune.backends.aiter_main.instances import f8i4_instances
from autotune.backends.aiter_main.names import CkName
from autotune.backends.aiter_main.pack import ck_misfit
from autotune.backends.flydsl.backend import compile_request, work_of
from autotune.backends.flydsl.compiler import Unsupported
from autotune.backends.flydsl.request import Request, whole
from autotune.backends.flydsl.tree import FlydslTree, TreeGeneration, open_tree
from autotune.backends.flydsl.wheel import flydsl_python, wheel_version
from autotune.errors import UserError
from autotune.kernels.formats import grouped_misfit
from autotune.machine.devices import Device
from autotune.problem.arithmetic import GROUPED_INT4, W4A8, Computes
from autotune.problem.layer import Layer, Problem, Stage, gemm_dims
from autotune.protocol.backend import CompileRefused, Listing, Work
from autotune.protocol.legality import require_layout
from autotune.protocol.registry import weight_bytes
from autotune.results import Compiled, StaticFacts
from autotune.space.config import UNSET, Config
from autotune.space.expressions import Expression
from autotune.space.read import shipped_spaces
from autotune.space.space import BoundSpace, Param, Rule, Space

_SOURCES = ("fused_moe.py", "ops/moe_op.py", "ops/flydsl/moe_kernels.py")


class AiterMain:
    """FP8 x INT4 by Composable Kernel."""

    name = "aiter_main"
    runtime = "autotune.backends.aiter_main.w4a8_runtime:make"
    computes = Computes(
        "INT4 weights, a scale per channel, times FP8 activations by token",
        W4A8[1:],
        strict=True,
        layout=ck_misfit,
    )

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        require_layout(self.name, self.computes, layer)
        space = _ck_space(require_main(), layer, tokens, stage, device)
        return space.at(layer, tokens, device)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        return {}  # no table that AITER ships has a row for this format

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        return f"{self.name}/{layer.key}/{stage}/{config.key}"

    def environment(self, config: Config) -> Mapping[str, str]:
        return {}

    def source_digest(self) -> str:
        return source_digest(require_main())

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        layer, (n, k) = problem.layer, gemm_dims(problem.layer, stage)
        slots, tile_n, tile_k = problem.tokens * layer.top_k, 64 if stage is Stage.STAGE1 else 128, 128
        blocks = min(float(slots), problem.expected_experts() + slots // whole(config, "tile_m"))
        rows = problem.tokens if stage is Stage.STAGE1 else slots
        return Work(
            bytes_moved=weight_bytes(self.name).read(problem, stage) + rows * k + 2 * slots * n,
            workgroups=blocks * -(-n // tile_n),
            bytes_in_flight=tile_n * min(tile_k, k) / 2,
        )

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        if not on_the_card():
            raise CompileRefused("AITER builds its Composable Kernel instances with hipcc, on the GPU only")
        return not_compiled(self.artefact_key(layer, tokens, stage, config))


class AiterMainGrouped:
    """bfloat16 x INT4 in groups by AITER's own FlyDSL kernels: `moe_2stage_a16wmix` with INT4 weights."""

    name = "aiter_main_w4a16"
    runtime = "autotune.backends.aiter_main.w4a16_runtime:make"
    computes = Computes(
        *("INT4 weights, a scale every 32 values of K, times bfloat16 activations", (GROUPED_INT4,)),
        strict=True,
        layout=lambda n, k: grouped_misfit(n, k) or flydsl_misfit(n, k),
    )

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        require_layout(self.name, self.computes, layer)
        package = require_main()
        reason = stage2_misfit(package, device.arch) if stage is Stage.STAGE2 else None
        if reason is not None:
            raise UserError(f"backend {self.name} has no code for {device.name}: {reason}")
        return grouped_spaces()[stage].at(layer, tokens, device)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        return {}  # AITER's rows for this format are of gfx950

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        return f"{self.name}/{layer.key}/{stage}/{config.key}"

    def environment(self, config: Config) -> Mapping[str, str]:
        return {}

    def source_digest(self) -> str:
        package = require_main()
        kernels = FlydslTree(package.parent, TreeGeneration.AITER).digest[:16]
        return f"{source_digest(package)}, kernels {kernels}, flydsl {wheel_version(flydsl_python())}"

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        request = Request.of(grouped_tree(), problem.layer, stage, config, "")
        return work_of(request, problem, weight_bytes(self.name))

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        started = time.perf_counter()
        try:
            return self.listing(layer, tokens, stage, config, device).compiled
        except Unsupported:
            if not on_the_card():
                raise  # an estimate needs the facts
            key = self.artefact_key(layer, tokens, stage, config)
            return not_compiled(key, time.perf_counter() - started)

    def listing(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Listing:
        return compile_request(Request.of(grouped_tree(), layer, stage, config, device.arch), device)


def require_main() -> Path:
    """The folder `aiter/` of the AITER that is given or installed.

    Raises:
        UserError: there is none, or it is of another generation.
    """
    package = find_package()
    if package is None:
        raise UserError(
            "AITER itself tells its kernels and none is here: install it, or name a source tree with"
            " AUTOTUNE_AITER_SRC (git clone https://github.com/ROCm/aiter)"
        )
    generation = generation_of(package)
    if generation is not AiterGeneration.MAIN:
        raise UserError(
            f"the AITER at {package} is of generation {generation}, not of main: use --backend aiter, or"
            " another AITER"
        )
    return package


@cache
def stage2_misfit(package: Path, arch: str) -> str | None:
    """Why stage 2 of an AITER's FlyDSL kernels has no code for a GPU, with the remedy; None: it has.

    gfx942 adds pairs of bfloat16 to global memory, but not through a buffer (`BUFFER_ATOMIC_PK_ADD_BF16` is
    gfx950's). AITER added in the first way from 4bbc57db1a (#4646, 13 August 2026) to ba59a37aa6, and does in
    the second since 078783cfe5 (#4879, 21 August): LLVM then aborts the process that compiles it.

    Args:
        package: AITER's folder `aiter/`.
        arch: `gfx942`, …
    """
    gemm2 = package / "ops/flydsl/kernels/moe_2stage_a16wmix/gemm2.py"
    if not arch.startswith("gfx94") or not gemm2.is_file():
        return None
    called = {
        node.attr for node in ast.walk(ast.parse(gemm2.read_bytes())) if isinstance(node, ast.Attribute)
    }
    if "BufferAtomicPkAdd" not in called or "AtomicRMWOp" in called:
        return None
    # The path last: where a reason is cut to a line's length, the remedy stays.
    return (
        f"AITER's stage 2 adds with bfloat16 buffer atomics, which {arch} does not have, so that LLVM aborts;"
        f" git checkout ba59a37aa6, the last commit before that, of 21 August 2026, in {package}"
    )


def source_digest(package: Path) -> str:
    """What the kernels are called through, and built by: the start of SHA-256 over those modules."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        path = package / name
        digest.update(name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b"") + b"\0")
    return f"aiter main {digest.hexdigest()[:16]}"


def on_the_card() -> bool:
    """Whether an AMD GPU is here."""
    return Path("/dev/kfd").exists()


def not_compiled(key: str, seconds: float = 0.0) -> Compiled:
    """A candidate that only the GPU can tell of, under its own name."""
    return Compiled(f"not compiled {hashlib.sha256(key.encode()).hexdigest()}", StaticFacts(), seconds)


@cache
def grouped_spaces() -> Mapping[Stage, Space]:
    """The spaces of AITER main's own FlyDSL kernels, which backend `flydsl` compiles from a tree as well."""
    return shipped_spaces("flydsl/aiter")


def grouped_tree() -> FlydslTree:
    """The tree of AITER main's own FlyDSL kernels.

    Raises:
        UserError: see `require_main`; or its kernels are not there.
    """
    return open_tree(require_main().parent)


def default_block(layer: Layer, tokens: int, compute_units: int) -> int:
    """Rows of a block that AITER takes without a table's row.

    The size that leaves the fewest rounds of workgroups over the CUs, then the fewest idle CUs in the last
    one (aiter e4048607a5, aiter/fused_moe.py:1227-1240); it sees the token count padded to a power of two.
    """
    padded = 1 << (tokens - 1).bit_length()
    columns = -(-layer.inter_dim // 128)

    def cost(block: int) -> tuple[int, int]:
        rows = padded * layer.top_k + layer.experts * block - layer.top_k
        workgroups = (columns * rows + block - 1) // block
        return -(-workgroups // compute_units), compute_units - workgroups % compute_units

    return min((32, 64, 128), key=cost)


@cache
def _ck_space(package: Path, layer: Layer, tokens: int, stage: Stage, device: Device) -> Space:
    """A space whose kernel names are those of the AITER that is here."""
    names = f8i4_instances(package, stage, device.arch)
    blocks = tuple(sorted({name.tile_m for name in names}))
    tile_m = Param("tile_m", blocks, default_block(layer, tokens, device.compute_units), "rows of a block")
    texts = (UNSET, *(name.text for name in names))
    kernel = Param("kernel", texts, UNSET, "kernelName of the table; unset: AITER's own choice for the block")
    of_block = " or ".join(f"(tile_m == {name.tile_m} and kernel == {name.text!r})" for name in names)
    n, k = gemm_dims(layer, stage)
    uneven = tuple(name.text for name in names if not _divides(name, n // (1 + (stage is Stage.STAGE1)), k))
    rules = (
        Rule(
            "kernel-of-block",
            Expression.parse(f"kernel == unset or {of_block}"),
            "the instance must take as many rows as the sort's block has: AITER does not compare them",
        ),
        Rule(
            "tile-divides",
            Expression.parse(f"kernel not in {uneven!r}"),
            "tile_n must divide the columns and tile_k the length of K: the weights have no padding",
        ),
    )
    doc = "FP8 activations x INT4 weights, Composable Kernel instance by name"
    params = (tile_m, kernel)
    return Space("aiter_main", "main", stage, doc, params, rules, (), stored_as=_ck_name(params, rules))


def _ck_name(params: Sequence[Param], rules: Sequence[Rule]) -> str:
    """The name of a CK space: SHA-256, hex, of these very words, by which stored results know it."""
    docs = ("rows of a block", "kernelName of the table; unset: AITER's own choice for the block")
    said = ", ".join(
        f"Param(name={param.name!r}, values={param.values!r}, default={param.default!r}, doc={doc!r},"
        " arch=(), option='', coupled=False)"
        for param, doc in zip(params, docs, strict=True)
    )
    return hashlib.sha256(f"(({said}), {[rule.require.text for rule in rules]!r})".encode()).hexdigest()


def _divides(name: CkName, columns: int, k: int) -> bool:
    return columns % name.tile_n == 0 and k % name.tile_k == 0
