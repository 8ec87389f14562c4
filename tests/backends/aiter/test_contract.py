"""What no longer fits is listed; the given sources fit.

The real ones are looked at where AUTOTUNE_AITER_SRC (one tree, or several as PATH has them) and
AUTOTUNE_FLYDSL_SRC name source trees.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.backends.aiter.contract import check_aiter, check_flydsl, environment_reads
from autotune.backends.aiter.source import SOURCE_VARIABLE, AiterGeneration, generation_of
from autotune.backends.flydsl.tree import TreeGeneration, open_tree
from tests.aiter_trees import GIVEN, KNOWN, given
from tests.cli.helper import ROOT
from tests.spaces import MI325X
from tests.standins import MAIN_TREE, PUBLISHED_TREE, SITE

FLYDSL = os.environ.get("AUTOTUNE_FLYDSL_SRC")


def test_reads_of_the_environment_are_found_with_their_defaults() -> None:
    text = "os.environ.get('A', '1'), os.getenv('B'), os.environ.get(name, 'x'), os.environ.get('A')"
    assert environment_reads(ast.parse(text)) == {"A": {"1", None}, "B": {None}}


def test_the_stand_in_has_the_functions_that_the_adapter_calls() -> None:
    found = check_aiter(SITE / "aiter", AiterGeneration.PUBLISHED)
    assert not any("function" in misfit or "begins with (" in misfit for misfit in found), found
    assert not any("parameter" in misfit for misfit in found), found


@pytest.mark.parametrize(("tree", "gates"), [(PUBLISHED_TREE, False), (MAIN_TREE, True)])
def test_a_tree_of_the_other_generation_does_not_fit(tree: Path, gates: bool) -> None:
    assert check_flydsl(tree, gates=gates)


def test_a_module_that_is_no_text_is_a_misfit(tmp_path: Path) -> None:
    for content in (b"\0", b"\xff", b"("):
        (tmp_path / "fused_moe.py").write_bytes(content)
        assert check_aiter(tmp_path, AiterGeneration.PUBLISHED) == ["fused_moe.py is missing or no Python"]


def test_every_misfit_is_one_sentence_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "fused_moe.py").write_text(
        "import os\n"
        "def moe_sorting(topk_ids, weights): ...\n"
        "def flydsl_moe_stage1(hidden_states, w1, w2, sorted_token_ids, sorted_expert_ids, num_valid_ids,"
        " out, topk, w1_scale): tile_n = 128\n"
        "X = os.environ.get('AITER_ENFORCE_DSL', '0')\n"
    )
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "tuned_fmoe.csv").write_text("token,model_dim\n")
    (configs / "a_tuned_fmoe.csv").write_bytes(b"\xff\0\n")
    (configs / "b_tuned_fmoe.csv").write_text("a" * 200_000)
    found = check_aiter(tmp_path, AiterGeneration.PUBLISHED)
    for words in (
        "moe_sorting begins with (topk_ids, weights)",
        "no function fused_moe",
        "flydsl_moe_stage1 has no parameter a1_scale",
        "defaults AITER_ENFORCE_DSL to [\"'0'\"], not to '1'",
        "does not read AITER_W4A8_USE_INT8",
        "begins with tile_n = 128, not 64",
        "tuned_fmoe.csv has no column cu_num",
        "a_tuned_fmoe.csv has no column",
        "b_tuned_fmoe.csv is not a table",
    ):
        assert any(words in misfit for misfit in found), (words, found)


def test_every_given_aiter_is_of_a_known_generation() -> None:
    assert all(generation_of(tree / "aiter") in KNOWN for tree in GIVEN), GIVEN


@given(*KNOWN)
def test_the_given_aiter_fits(tree: Path) -> None:
    assert check_aiter(tree / "aiter", generation_of(tree / "aiter")) == []


@given(*KNOWN)
def test_the_given_aiters_triton_kernel_cross_compiles_for_the_card(tree: Path) -> None:
    if "AITER_TRITON_ONLY" not in (tree / "aiter/__init__.py").read_text():
        pytest.skip("this AITER cannot be imported without ROCm")
    command = [sys.executable, "-W", "ignore", "-m", "autotune.backends.aiter.triton_moe"]
    env = {**os.environ, SOURCE_VARIABLE: str(tree)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts.keys() == {"bf16", "int8 weights", "fp8"}
    assert all(one["mfma"] > 0 and one["lds_bytes"] <= MI325X.lds_bytes for one in facts.values())


@pytest.mark.skipif(FLYDSL is None, reason="give AUTOTUNE_FLYDSL_SRC, a FlyDSL source tree")
def test_the_given_flydsl_fits() -> None:
    assert FLYDSL is not None
    tree = open_tree(Path(FLYDSL))
    assert check_flydsl(tree.root, gates=tree.generation is TreeGeneration.PUBLISHED) == []
