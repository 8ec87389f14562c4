"""Knobs and what becomes of them: spaces, seeds, environments, deployment, compiling."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.backends.aiter.knobs import PUBLISHED, engine_block, gate, launch_variables, tile
from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.protocol.registry import load_backend
from autotune.results import LayerConfig
from autotune.space.config import UNSET, Config
from autotune.space.read import shipped_spaces
from autotune.space.space import BoundSpace
from tests.spaces import KIMI, MI325X
from tests.standins import MAIN_TREE, PUBLISHED_TREE, python_with_wheel

BACKEND = load_backend("aiter")
SPACES = shipped_spaces("aiter/published")
FLYDSL = shipped_spaces("flydsl/published")


def space(stage: Stage, tokens: int = 4) -> BoundSpace:
    return SPACES[stage].at(KIMI, tokens, MI325X)


def layer(one: dict[str, Any], two: dict[str, Any], tokens: int = 4) -> LayerConfig:
    return LayerConfig(space(Stage.STAGE1, tokens).complete(one), space(Stage.STAGE2, tokens).complete(two))


@pytest.mark.parametrize("stage", Stage)
def test_everything_is_unset_by_default_but_the_engines_block(stage: Stage) -> None:
    default = space(stage).default
    assert {name for name, value in default.items() if value is not UNSET} == {"tile_m"}


@given(st.integers(1, 5000))
def test_the_block_is_the_engines_at_every_token_count(tokens: int) -> None:
    """AITER's rule over its padding, written once more."""
    padded = 1 << (tokens - 1).bit_length() if tokens < 1024 else 1024 if tokens < 2048 else 2048
    rule = 64 if padded > 1024 else 32 if padded > 128 else 16
    assert engine_block(tokens) == rule
    for stage in Stage:
        assert {config["tile_m"] for config in space(stage, tokens)} == {rule}


@given(st.sampled_from([1, 4, 128, 160, 2047, 2048, 4096]), st.sampled_from(list(Stage)))
def test_the_tiles_in_effect_are_exactly_those_of_the_bare_kernels(tokens: int, stage: Stage) -> None:
    bound = space(stage, tokens)
    effective = {(tile(stage, c, "tile_n"), tile(stage, c, "tile_k")) for c in bound}
    assert effective == {(c["tile_n"], c["tile_k"]) for c in FLYDSL[stage].at(KIMI, tokens, MI325X)}
    assert bound.is_legal(bound.default)


@pytest.mark.parametrize(("tokens", "tile_k"), [(128, 256), (129, 128), (2048, 128)])
def test_unset_tile_k_of_stage_1_follows_aiters_rule(tokens: int, tile_k: int) -> None:
    assert tile(Stage.STAGE1, space(Stage.STAGE1, tokens).default, "tile_k") == tile_k


def deployed(config: LayerConfig) -> dict[str, str]:
    return PUBLISHED.deployment(PUBLISHED.variables(config, layer({}, {})))


def test_the_default_is_deployed_without_a_knob() -> None:
    assert deployed(layer({}, {})) == {"AITER_W4A8_USE_INT8": "1"}


def test_the_published_pair_is_deployed_with_a_cache_folder_of_its_own() -> None:
    seeds = [BACKEND.seeds(KIMI, 4, stage, MI325X)["published"] for stage in Stage]
    variables = deployed(LayerConfig(*seeds))
    assert variables.pop("FLYDSL_RUNTIME_CACHE_DIR")
    assert variables == {
        "AITER_W4A8_USE_INT8": "1",
        "FLYDSL_MOE_STAGE1_SCHED": "0",
        "AITER_FLYDSL_STAGE2_TILE_K": "256",
    }


@given(st.data())
def test_what_is_deployed_is_what_was_measured(data: st.DataObject) -> None:
    one, two = (data.draw(st.sampled_from(list(space(stage)))) for stage in Stage)
    variables = deployed(LayerConfig(one, two))
    measured = launch_variables(one) | launch_variables(two)
    gates = {name: value for one_gate in (gate(one), gate(two)) for name, value in one_gate.items()}
    off = {name: value for name, value in gates.items() if value == "0"}  # on is what unset is
    variables.pop("FLYDSL_RUNTIME_CACHE_DIR", None)
    assert variables == {"AITER_W4A8_USE_INT8": "1", **measured, **off}


@pytest.mark.parametrize("stage", Stage)
def test_only_the_gates_divide_measure_processes(stage: Stage) -> None:
    environments = {tuple(BACKEND.environment(config).items()) for config in space(stage)}
    names = [f"FLYDSL_MOE_{stage.name}_SCHED", *(["FLYDSL_CK_LDS128"] if stage is Stage.STAGE1 else [])]
    assert environments == {
        tuple(zip(names, values, strict=True)) for values in product("01", repeat=len(names))
    }


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSL2_ROOT", str(PUBLISHED_TREE))
    monkeypatch.setenv("AUTOTUNE_FLYDSL_PYTHON", str(python_with_wheel(tmp_path)))


@pytest.mark.usefixtures("offline")
def test_unset_and_its_value_written_out_are_one_program() -> None:
    unset, written = (
        BACKEND.compile(KIMI, 4, Stage.STAGE1, space(Stage.STAGE1).complete({"tile_k": k}), MI325X)
        for k in (None, 256)
    )
    assert unset.binary_hash == written.binary_hash


@pytest.mark.usefixtures("offline")
def test_padded_rows_take_eight_bytes_more_each_and_count_in_what_is_legal() -> None:
    plain, padded = (space(Stage.STAGE1).complete({"lds128": value}) for value in (None, False))
    lds = [BACKEND.compile(KIMI, 4, Stage.STAGE1, c, MI325X).facts.lds_bytes for c in (plain, padded)]
    assert lds == [2 * 16 * 256, 2 * 16 * (256 + 8)]
    narrow = replace(MI325X, lds_bytes=2 * 16 * 256)
    tight = SPACES[Stage.STAGE1].at(KIMI, 4, narrow)
    assert tight.is_legal(plain)
    broken = tight.broken_rule(padded)
    assert broken is not None
    assert broken.name == "lds"


@pytest.mark.usefixtures("offline")
def test_equal_code_without_the_grid_trim_is_another_launch() -> None:
    trimmed, whole = (
        BACKEND.compile(KIMI, 4, Stage.STAGE1, space(Stage.STAGE1).complete({"grid_trim": t}), MI325X)
        for t in (None, False)
    )
    assert trimmed.facts == whole.facts
    assert trimmed.binary_hash != whole.binary_hash


def test_mains_tree_is_not_for_this_aiter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSL2_ROOT", str(MAIN_TREE))
    with pytest.raises(UserError, match="a1d8312"):
        BACKEND.source_digest()


def test_an_aiter_of_main_has_no_such_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tmp_path / "aiter/ops/flydsl/moe_kernels.py"
    names.parent.mkdir(parents=True)
    names.write_text("def get_flydsl_kernel_params(name): ...")
    monkeypatch.setenv("AUTOTUNE_AITER_SRC", str(tmp_path))
    with pytest.raises(UserError, match="generation main"):
        BACKEND.space(KIMI, 4, Stage.STAGE1, MI325X)


def test_a_config_survives_its_text() -> None:
    config = space(Stage.STAGE1).complete({"tile_k": 64})
    assert Config.parse(str(config)) == config
