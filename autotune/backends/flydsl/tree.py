"""A FlyDSL source tree: where it is, which generation its MoE kernels are, and what they are made of."""

import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from pathlib import Path

from autotune.errors import UserError

ROOT_VARIABLE = "DSL2_ROOT"
"""AITER's name for it (aiter 511df6a, aiter/fused_moe.py:2110 and 2585)."""

_PUBLISHED = "kernels/moe_gemm_2stage.py"
_MAIN = "kernels/moe/moe_gemm_2stage/__init__.py"
_AITER = "aiter/ops/flydsl/kernels/moe_2stage_a16wmix/__init__.py"


class TreeGeneration(StrEnum):
    """How a tree's MoE kernels are configured."""

    PUBLISHED = "published"  # a1d8312: parameters, and the scheduler gates as environment variables
    MAIN = "main"  # parameters and compile hints
    AITER = "aiter"  # AITER main's own FlyDSL kernels: INT4 weights in groups, bfloat16 activations


@dataclass(frozen=True)
class FlydslTree:
    """A tree that holds two-stage MoE kernels."""

    root: Path
    generation: TreeGeneration

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the kernels' sources, hex."""
        digest = hashlib.sha256()
        kernels = "aiter/ops/flydsl" if self.generation is TreeGeneration.AITER else "kernels"
        for path in sorted((self.root / kernels).rglob("*.py")):
            digest.update(path.relative_to(self.root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()

    @property
    def commit(self) -> str | None:
        """The checked-out commit, hex; None: no git checkout."""
        return git_commit(self.root)


def find_tree() -> FlydslTree:
    """The tree that `DSL2_ROOT` names.

    Raises:
        UserError: it names none.
    """
    named = os.environ.get(ROOT_VARIABLE)
    if not named:
        raise UserError(
            "FlyDSL's MoE kernels come from a source tree and none is named: give it with --flydsl-root or"
            f" ${ROOT_VARIABLE} (git clone https://github.com/ROCm/FlyDSL)"
        )
    return open_tree(Path(named))


def open_tree(root: Path) -> FlydslTree:
    """The tree at `root`.

    Raises:
        UserError: no MoE kernels that we know are there.
    """
    known: Sequence[tuple[str, TreeGeneration]] = (
        (_MAIN, TreeGeneration.MAIN),
        (_PUBLISHED, TreeGeneration.PUBLISHED),
        (_AITER, TreeGeneration.AITER),
    )
    for path, generation in known:
        if (root / path).is_file():
            return FlydslTree(root.resolve(), generation)
    raise UserError(
        f"{root} holds neither {_PUBLISHED} nor {_MAIN}: give a FlyDSL source tree with --flydsl-root or"
        f" ${ROOT_VARIABLE}"
    )


@cache
def git_commit(folder: Path) -> str | None:
    """HEAD of the checkout whose top is `folder`, hex; None: it is none, or git is missing."""
    if not (folder / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.strip()
