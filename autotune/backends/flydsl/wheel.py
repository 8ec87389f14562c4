"""The Python that has the `flydsl` wheel, and which wheel a tree needs."""

import os
import re
import subprocess
import sys
from functools import cache

from autotune.backends.flydsl.tree import FlydslTree, TreeGeneration
from autotune.errors import UserError
from autotune.text import why

PYTHON_VARIABLE = "AUTOTUNE_FLYDSL_PYTHON"
_ASK = "import importlib.metadata as m; print(m.version('flydsl'))"

# Which wheels a generation's kernels were seen compiling with, and the one to install.
_WANTED = {
    TreeGeneration.PUBLISHED: ((0, 1), (0, 2), "0.1.5"),
    TreeGeneration.MAIN: ((0, 3, 1), None, "0.5.0"),
    TreeGeneration.AITER: ((0, 3, 1), None, "0.3.1"),
}


def flydsl_python() -> str:
    """The interpreter that compiles: `AUTOTUNE_FLYDSL_PYTHON`, else this one."""
    return os.environ.get(PYTHON_VARIABLE) or sys.executable


@cache
def wheel_version(python: str) -> str | None:
    """The version of the wheel that `python` has; None: it has none.

    Raises:
        UserError: there is no such interpreter.
    """
    try:
        asked = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"{python} cannot be run ({why(error)}): correct --flydsl-python") from error
    return asked.stdout.strip() or None


def numbers(version: str) -> tuple[int, ...]:
    """`0.1.1.dev409` as (0, 1, 1): what two versions are compared by."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()


def fits(generation: TreeGeneration, version: str) -> bool:
    """Whether a wheel is one that the generation's kernels compile with."""
    low, high, _ = _WANTED[generation]
    return numbers(version) >= low and (high is None or numbers(version) < high)


def remedy(generation: TreeGeneration, python: str) -> str:
    """The command that installs a wheel that fits."""
    return f"{python} -m pip install flydsl=={_WANTED[generation][2]}"


def matching_wheel(tree: FlydslTree) -> str:
    """The version of the wheel that will compile the tree's kernels.

    Raises:
        UserError: there is none, or one of another generation.
    """
    python = flydsl_python()
    version = wheel_version(python)
    how = f"{remedy(tree.generation, python)}, or name another Python with --flydsl-python"
    if version is None:
        raise UserError(f"backend flydsl needs the flydsl wheel, which {python} does not have: {how}")
    if not fits(tree.generation, version):
        raise UserError(
            f"{tree.root} is of generation {tree.generation}, which flydsl {version} does not compile: {how}"
        )
    return version


def compile_options(version: str) -> frozenset[str]:
    """Compile hints that change the code with this wheel.

    0.1.5 takes `waves_per_eu` and drops it on the way to LLVM; from 0.3.1 on it is a function attribute.
    """
    known = {"llvm_options"}
    return frozenset(known | {"waves_per_eu"} if numbers(version) >= (0, 3) else known)
