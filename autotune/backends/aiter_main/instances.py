"""The Composable Kernel instances of FP8 x INT4 that a given or installed AITER builds, by name.

They are asked of AITER's own generator (aiter e4048607a5, csrc/ck_gemm_moe_2stages_codegen/
gemm_moe_ck2stages_common.py), which a wheel brings along under `aiter_meta`. A name that is not among them is
not refused there: AITER warns and launches what it would without a name (gemm_moe_ck2stages.cu:44-52).
"""

import ast
from functools import cache
from pathlib import Path
from typing import Any

from autotune.backends.aiter_main.names import CkName
from autotune.errors import UserError
from autotune.problem.layer import Stage

GENERATOR = "csrc/ck_gemm_moe_2stages_codegen/gemm_moe_ck2stages_common.py"
FUNCTIONS = {
    Stage.STAGE1: ("get_gemm1_kernels_list", ("F8", "I4", "B16", False, 2, "silu", False)),
    Stage.STAGE2: ("get_gemm2_kernels_list", ("F8", "I4", "B16", False, 2, True)),
}
"""What lists a stage's instances, and what it is asked: dtypes of activations, weights and output, no
swizzle, quantisation by token (2), in stage 1 the activation, and router weights in stage 2 only."""


@cache
def f8i4_instances(package: Path, stage: Stage, arch: str) -> tuple[CkName, ...]:
    """The instances, by rows of a block.

    Args:
        package: AITER's folder `aiter/`.

    Raises:
        UserError: the generator is missing, or answers otherwise than we know.
    """
    path = next((p / GENERATOR for p in _roots(package) if (p / GENERATOR).is_file()), None)
    if path is None:
        raise UserError(
            f"the AITER at {package} has no {GENERATOR}: install AITER from a source tree or its wheel, or"
            " name a tree with AUTOTUNE_AITER_SRC"
        )
    function, arguments = FUNCTIONS[stage]
    try:
        _, kernels = _generator(path, arch)[function](*arguments)
        names = [CkName.parse(kernel.name) for kernel in kernels.values()]
    except Exception as error:  # whatever its code does: another AITER than we know
        raise UserError(f"{path} does not list its kernels as expected ({error}): {_REMEDY}") from error
    known = [name for name in names if name is not None and (name.a, name.b) == ("F8", "I4")]
    if not known or len(known) != len(names):
        raise UserError(f"{path} names its FP8 x INT4 kernels otherwise than expected: {_REMEDY}")
    return tuple(sorted(known, key=lambda name: (name.tile_m, name.text)))


_REMEDY = "use an AITER of August 2026 (e4048607a5)"


def _roots(package: Path) -> tuple[Path, ...]:
    return package.parent, package.parent / "aiter_meta"


def _generator(path: Path, arch: str) -> dict[str, Any]:
    """The generator's names. Its look at the GPU, which need not be here, is answered with `arch`."""
    body = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if not (isinstance(node, ast.ImportFrom) and node.module == "chip_info")
        and not (isinstance(node, ast.Expr) and "sys.path" in ast.unparse(node))
    ]
    # Dataclasses look their module up; the class bodies need no more than a name that exists.
    names: dict[str, Any] = {"__name__": __name__, "__file__": str(path), "get_gfx": lambda: arch}
    exec(compile(ast.Module(body, []), str(path), "exec"), names)
    return names
