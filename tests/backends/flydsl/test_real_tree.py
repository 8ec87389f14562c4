"""The published finding, compiled from a real tree.

Skipped unless AUTOTUNE_FLYDSL_SRC names a FlyDSL tree and AUTOTUNE_FLYDSL_PYTHON a Python with its wheel.
"""

import os

import pytest

from autotune.backends.flydsl.compiler import assembly
from autotune.backends.flydsl.request import Request
from autotune.backends.flydsl.tree import TreeGeneration, open_tree
from autotune.compile.isa import refusal
from autotune.problem.layer import Stage
from autotune.protocol.backend import CompileRefused
from autotune.protocol.registry import load_backend
from tests.spaces import KIMI, MI325X

TREE = os.environ.get("AUTOTUNE_FLYDSL_SRC")
pytestmark = pytest.mark.skipif(
    TREE is None or "AUTOTUNE_FLYDSL_PYTHON" not in os.environ,
    reason="give AUTOTUNE_FLYDSL_SRC (a tree) and AUTOTUNE_FLYDSL_PYTHON (with its wheel)",
)
BACKEND = load_backend("flydsl")


@pytest.fixture
def generation(monkeypatch: pytest.MonkeyPatch) -> TreeGeneration:
    assert TREE is not None
    monkeypatch.setenv("DSL2_ROOT", TREE)
    from pathlib import Path

    return open_tree(Path(TREE)).generation


@pytest.mark.parametrize(("tile_k", "on", "off"), [(128, 399, 149), (256, 278, 291)])
def test_the_gates_sign_turns_with_tile_k(generation: TreeGeneration, tile_k: int, on: int, off: int) -> None:
    """s_waitcnt of stage 1, tile 16x64: the finding that was published, and what it hides."""
    if generation is not TreeGeneration.PUBLISHED:
        pytest.skip("the gates are the published generation's")
    space = BACKEND.space(KIMI, 4, Stage.STAGE1, MI325X)
    waits = [
        BACKEND.compile(KIMI, 4, Stage.STAGE1, space.complete({"tile_k": tile_k, "sched": sched}), MI325X)
        for sched in (True, False)
    ]
    assert [one.facts.waits for one in waits] == [on, off]
    assert {one.facts.mfma for one in waits} == {448}


@pytest.mark.parametrize("stage", Stage)
def test_the_default_and_the_seeds_compile(generation: TreeGeneration, stage: Stage) -> None:
    space = BACKEND.space(KIMI, 4, stage, MI325X)
    for config in [space.default, *BACKEND.seeds(KIMI, 4, stage, MI325X).values()]:
        made = BACKEND.compile(KIMI, 4, stage, config, MI325X)
        assert refusal(made.facts, MI325X, allow_spills=False) is None


def test_a_tile_that_the_tree_rejects_is_refused(generation: TreeGeneration) -> None:
    from autotune.backends.flydsl.tree import find_tree

    with pytest.raises(CompileRefused, match="tile_n"):
        assembly(Request(find_tree(), KIMI, Stage.STAGE2, "gfx942", tile_m=16, tile_n=96, tile_k=128))
