"""Compiling offline, against a stand-in wheel and stand-in trees, in real worker processes."""

from pathlib import Path

import pytest

from autotune.backends.flydsl.compiler import Unsupported, assembly
from autotune.backends.flydsl.request import Request
from autotune.backends.flydsl.tree import find_tree
from autotune.compile.isa import refusal
from autotune.errors import UserError
from autotune.problem.layer import Problem, Stage
from autotune.protocol.backend import CompileRefused
from autotune.protocol.registry import load_backend
from autotune.results import Compiled
from autotune.space.config import Config
from tests.spaces import KIMI, MI325X
from tests.standins import MAIN_TREE, PUBLISHED_TREE, WHEEL, python_with_wheel

BACKEND = load_backend("flydsl")


def compiled(stage: Stage, **knobs: int | bool | str) -> Compiled:
    space = BACKEND.space(KIMI, 4, stage, MI325X)
    return BACKEND.compile(KIMI, 4, stage, space.complete(knobs), MI325X)


@pytest.mark.usefixtures("published")
def test_a_gate_reaches_the_kernel_that_is_compiled() -> None:
    on, off = (compiled(Stage.STAGE1, tile_k=128, sched=sched) for sched in (True, False))
    assert (on.facts.waits, off.facts.waits) == (300, 100)
    assert (on.facts.vgprs, off.facts.vgprs) == (64, 120)
    assert on.binary_hash != off.binary_hash


@pytest.mark.usefixtures("published")
def test_a_gate_of_the_shell_does_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYDSL_MOE_STAGE1_SCHED", "0")
    monkeypatch.setenv("FLYDSL_MOE_STAGE2_SCHED", "0")
    assert compiled(Stage.STAGE1, tile_k=128, sched=True).facts.waits == 300


@pytest.mark.usefixtures("published")
def test_compiling_leaves_no_cache_behind_in_which_a_stale_gate_could_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLYDSL_RUNTIME_CACHE_DIR", str(tmp_path / "cache"))
    compiled(Stage.STAGE2)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / ".flydsl").exists()


@pytest.mark.usefixtures("published")
def test_the_facts_come_with_the_occupancy_that_follows() -> None:
    facts = compiled(Stage.STAGE2).facts
    assert facts.lds_bytes == 2 * 16 * 256
    assert facts.workgroups_per_cu == 8
    assert facts.mfma == 1


@pytest.mark.usefixtures("published")
def test_equal_code_with_another_grid_is_another_program() -> None:
    narrow, wide = (compiled(Stage.STAGE1, tile_n=n) for n in (64, 128))
    assert narrow.facts == wide.facts
    assert narrow.binary_hash != wide.binary_hash


@pytest.mark.parametrize("generation", ["published", "main"])
def test_an_lds_overflow_is_refused_whether_the_compiler_dies_of_it_or_goes_on(
    generation: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(generation)
    over = Request(find_tree(), KIMI, Stage.STAGE2, "gfx942", tile_m=256, tile_n=256, tile_k=128)
    from autotune.backends.flydsl.backend import compile_request

    reason = refusal(compile_request(over, MI325X).compiled.facts, MI325X, allow_spills=False)
    assert reason is not None
    assert "131072 bytes of LDS" in reason


@pytest.mark.usefixtures("main")
def test_what_the_tree_rejects_is_one_sentence_in_its_words() -> None:
    wrong = Request(find_tree(), KIMI, Stage.STAGE1, "gfx942", tile_m=16, tile_n=64, tile_k=64)
    with pytest.raises(CompileRefused, match="tile_k 64 is neither 128 nor 256"):
        assembly(wrong)


@pytest.mark.usefixtures("main")
def test_hints_reach_the_compiler() -> None:
    plain, hinted = compiled(Stage.STAGE1), compiled(Stage.STAGE1, waves_per_eu=2, misched=False)
    assert (plain.facts.vgprs, hinted.facts.vgprs) == (108, 106)
    assert plain.facts.waits != hinted.facts.waits


@pytest.mark.usefixtures("main")
def test_tile_n_64_and_128_of_mains_stage_1_are_one_program() -> None:
    assert compiled(Stage.STAGE1, tile_n=64).binary_hash == compiled(Stage.STAGE1, tile_n=128).binary_hash


@pytest.mark.usefixtures("main")
def test_a_flydsl_with_another_pipeline_is_not_held_against_the_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    wheel = tmp_path / "wheel"
    shutil.copytree(WHEEL / "flydsl", wheel / "flydsl")
    backends = wheel / "flydsl/compiler/backends.py"
    backends.write_text(backends.read_text().replace("pipeline_fragments", "passes"))
    python = python_with_wheel(tmp_path / "other", "0.5.0")
    python.write_text(python.read_text().replace(str(WHEEL), str(wheel)))
    monkeypatch.setenv("AUTOTUNE_FLYDSL_PYTHON", str(python))
    request = Request(find_tree(), KIMI, Stage.STAGE1, "gfx942", tile_m=16, tile_n=64, tile_k=128)
    with pytest.raises(Unsupported, match="pipeline_fragments"):
        assembly(request)


@pytest.mark.usefixtures("published")
def test_the_published_pair_is_a_seed_and_every_seed_is_legal() -> None:
    one, two = (BACKEND.seeds(KIMI, 4, stage, MI325X) for stage in Stage)
    assert one["published"]["sched"] is False
    assert two["published"]["tile_k"] == 256
    for stage, seeds in zip(Stage, (one, two), strict=True):
        space = BACKEND.space(KIMI, 4, stage, MI325X)
        assert all(space.is_legal(config) for config in seeds.values())


@pytest.mark.usefixtures("published")
def test_the_environment_of_a_config_is_its_own_stages_gate() -> None:
    one, two = (BACKEND.space(KIMI, 4, stage, MI325X).default for stage in Stage)
    assert BACKEND.environment(one.replaced(sched=False)) == {"FLYDSL_MOE_STAGE1_SCHED": "0"}
    assert BACKEND.environment(two.replaced(sched=True)) == {"FLYDSL_MOE_STAGE2_SCHED": "1"}


@pytest.mark.usefixtures("published")
def test_one_binary_serves_every_token_count() -> None:
    config = BACKEND.space(KIMI, 4, Stage.STAGE1, MI325X).default
    keys = {BACKEND.artefact_key(KIMI, tokens, Stage.STAGE1, config) for tokens in (1, 4, 8)}
    assert len(keys) == 1


@pytest.mark.usefixtures("published")
def test_the_estimates_work_grows_with_the_tokens_and_reduce_moves_more_than_atomics() -> None:
    atomic = BACKEND.space(KIMI, 4, Stage.STAGE2, MI325X).default
    few, many = (BACKEND.work(Problem(KIMI, m), Stage.STAGE2, atomic) for m in (1, 8))
    assert few.bytes_moved < many.bytes_moved
    reduce = BACKEND.work(Problem(KIMI, 8), Stage.STAGE2, atomic.replaced(mode="reduce"))
    assert reduce.bytes_moved > many.bytes_moved


@pytest.mark.usefixtures("published")
def test_the_source_names_generation_tree_and_wheel() -> None:
    assert BACKEND.source_digest() == f"published {find_tree().digest[:16]} flydsl 0.1.5"


@pytest.mark.parametrize(
    ("root", "version", "words"),
    [
        (None, "0.1.5", "--flydsl-root"),
        ("/nowhere", "0.1.5", "give a FlyDSL source tree"),
        (str(MAIN_TREE), "0.1.5", "pip install flydsl==0.5.0"),
        (str(PUBLISHED_TREE), "0.5.0", "pip install flydsl==0.1.5"),
    ],
)
def test_what_is_missing_is_one_sentence_with_the_remedy(
    root: str | None, version: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DSL2_ROOT", raising=False)
    if root:
        monkeypatch.setenv("DSL2_ROOT", root)
    monkeypatch.setenv("AUTOTUNE_FLYDSL_PYTHON", str(python_with_wheel(tmp_path, version)))
    with pytest.raises(UserError) as raised:
        BACKEND.space(KIMI, 4, Stage.STAGE1, MI325X)
    assert words in str(raised.value)


def test_a_config_without_knobs_of_a_gate_needs_no_environment() -> None:
    assert BACKEND.environment(Config({"tile_n": 64})) == {}
