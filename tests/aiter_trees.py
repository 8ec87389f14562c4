"""AITER's source trees that contract tests look at: `AUTOTUNE_AITER_SRC`, several as PATH has them."""

import os
from pathlib import Path

import pytest

from autotune.backends.aiter.source import SOURCE_VARIABLE, AiterGeneration, generation_of

GIVEN = tuple(Path(name) for name in os.environ.get(SOURCE_VARIABLE, "").split(os.pathsep) if name)
KNOWN = (AiterGeneration.PUBLISHED, AiterGeneration.MAIN)


def given(*generations: AiterGeneration) -> pytest.MarkDecorator:
    """Runs a test on each given tree of some generations, as `tree`; without any it is skipped."""
    return pytest.mark.parametrize("tree", parameters(*generations))


def parameters(*generations: AiterGeneration) -> list[object]:
    """The trees for `parametrize`, by the names of their folders."""
    fit: list[object] = [
        pytest.param(tree, id=tree.name) for tree in GIVEN if generation_of(tree / "aiter") in generations
    ]
    what = " or ".join(generations)
    reason = f"give {SOURCE_VARIABLE}, source trees of AITER ({what}), separated as in PATH"
    return fit or [pytest.param(Path(), marks=pytest.mark.skip(reason), id="none given")]
