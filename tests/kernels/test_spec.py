"""Specs: what a config compiles to and how it is launched, without compiling."""

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from autotune.errors import UserError
from autotune.kernels.chain import layer_chain
from autotune.kernels.config import LayerDims, Stage1Config, Stage2Config
from autotune.kernels.sort import TOKEN_ROWS, max_blocks
from autotune.kernels.spec import buffers, check_tokens, grid, stage_spec
from autotune.kernels.tuned import LOOP_TOKENS, TunedLayer, default_config, parse_tuned
from autotune.machine.devices import DEVICES, Device
from autotune.problem.layer import Layer, Stage
from autotune.problem.models import PRESETS
from autotune.space.read import shipped_spaces
from tests.damaged import damaged

KIMI = LayerDims(7168, 256, 384, 8)
SPACES = shipped_spaces("triton")


def test_unset_knobs_are_no_options() -> None:
    spec = stage_spec("stage1", {"kpack": None, "waves_per_eu": None, "pdl": None}, KIMI, "hip")
    assert set(spec.options) == {"num_warps", "num_stages"}
    knobs = {"kpack": 2, "waves_per_eu": 2, "matrix_instr_nonkdim": 16, "sched_strategy": "max-ilp"}
    options = stage_spec("stage1", knobs, KIMI, "hip").options
    assert options["kpack"] == options["waves_per_eu"] == 2
    assert options["llvm_fn_attrs"] == "amdgpu-sched-strategy=max-ilp"
    assert set(stage_spec("stage1", knobs, KIMI, "cuda").options) == {"num_warps", "num_stages"}


def test_pointers_are_aligned_and_no_integer_is_specialised() -> None:
    spec = stage_spec("stage2", {"reduce": "loop"}, KIMI, "cuda")
    types = list(spec.signature.values())
    assert {index for (index,) in spec.attrs} == {i for i, kind in enumerate(types) if kind.startswith("*")}
    assert spec.signature["tokens"] == "i32"
    assert set(spec.run_time) | set(spec.constexprs) == set(spec.signature)


def test_equal_content_has_an_equal_name() -> None:
    one = stage_spec("stage1", {"tile_n": 32}, KIMI, "cuda")
    assert one.name == stage_spec("stage1", {"tile_n": 32, "kpack": 2}, KIMI, "cuda").name
    assert one.name != stage_spec("stage1", {"tile_n": 64}, KIMI, "cuda").name
    assert one.name != stage_spec("stage1", {"tile_n": 32}, LayerDims(7168, 512, 384, 8), "cuda").name


def test_the_grid_covers_what_the_sort_can_need() -> None:
    spec = stage_spec("stage1", {"tile_n": 64, "tile_k": 512, "split_k": 2}, KIMI, "cuda")
    assert grid(spec, 4) == (32 * 8 * 2, 1, 1)
    assert max_blocks(4, 8, 384, 16) == 32
    assert max_blocks(160, 8, 384, 32) == 384 + 1280 // 32
    assert buffers(spec, 4)["arrivals"].shape == (32, 8)
    loop = stage_spec("stage2", {"tile_n": 64, "reduce": "loop", "split_blocks": 2}, KIMI, "cuda")
    assert grid(loop, 1) == grid(loop, 8) == (112 * 2, 1, 1)


@pytest.mark.parametrize(
    ("stage", "knobs", "says"),
    [
        ("stage1", {"tile_q": 1}, "no knob"),
        ("stage1", {"tile_n": "64"}, "wrong type"),
        ("stage1", {"tile_n": 48}, "power of two"),
        ("stage1", {"tile_k": 512, "split_k": 4}, "does not divide"),
        ("stage2", {"reduce": "sum"}, "loop, arrive or atomic"),
        ("stage2", {"reduce": "loop", "group": 4}, "must be 1"),
        ("stage2", {"split_blocks": 2}, "unless reduce=loop"),
        ("stage1", {"requantise": "first"}, "launch or last"),
        ("stage1", {"prefetch": 300}, "power of two"),
        ("stage3", {}, "no stage"),
    ],
)
def test_what_cannot_be_compiled_is_refused(stage: str, knobs: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        stage_spec(stage, knobs, KIMI, "cuda")


def test_the_loop_refuses_more_tokens_than_it_has_rows_for() -> None:
    assert TOKEN_ROWS == LOOP_TOKENS
    spec = stage_spec("stage2", {"reduce": "loop"}, KIMI, "cuda")
    check_tokens(spec, TOKEN_ROWS)
    with pytest.raises(UserError, match="arrive or atomic"):
        check_tokens(spec, TOKEN_ROWS + 1)


def test_blocks_of_8_rows_are_for_8_tokens_and_nvidia() -> None:
    spec = stage_spec("stage1", {"tile_m": 8}, KIMI, "cuda")
    check_tokens(spec, 8)
    with pytest.raises(UserError, match="up to 8 tokens"):
        check_tokens(spec, 9)
    layer = TunedLayer(Stage1Config(tile_m=8), Stage2Config(tile_m=8))
    assert layer.serves(8)
    assert not layer.serves(9)
    with pytest.raises(UserError, match="needs NVIDIA"):
        stage_spec("stage1", {"tile_m": 8}, KIMI, "hip")


def test_a_prefetch_needs_dependent_launch() -> None:
    """Without, a program begins when there is nothing left to do ahead of: the same binary."""
    plain = stage_spec("stage1", {}, KIMI, "cuda").name
    assert stage_spec("stage1", {"prefetch": 512}, KIMI, "cuda").name == plain
    assert stage_spec("stage1", {"prefetch": 512, "pdl": True}, KIMI, "cuda").constexprs["PREFETCH"] == 512


def test_stage_1_quantises_or_a_launch_does() -> None:
    stages = {
        requantise: [
            link.spec.stage
            for link in layer_chain(KIMI, Stage1Config(requantise=requantise), Stage2Config(), 4, "hip").links
        ]
        for requantise in ("launch", "last")
    }
    assert stages["launch"] == ["prepare", "stage1", "quantise", "stage2"]
    assert stages["last"] == ["prepare", "stage1", "stage2"]


@pytest.mark.parametrize("device", ["mi325x", "h100"])
@pytest.mark.parametrize("stage", list(Stage))
def test_whatever_the_space_yields_makes_a_spec(stage: Stage, device: str) -> None:
    rng = random.Random(0)
    for name in PRESETS:
        for tokens in (1, 8, 160):
            layer = Layer.of(PRESETS[name], 8)
            space = SPACES[stage].at(layer, tokens, DEVICES[device])
            config = space.default
            for _ in range(15):  # a walk through legal configs, one knob a step
                spec = stage_spec(stage, config, layer, DEVICES[device].runtime)
                check_tokens(spec, tokens)
                config = rng.choice(space.neighbours(config))


@given(
    device=st.sampled_from([DEVICES["h100"], DEVICES["mi325x"], replace(DEVICES["h100"], arch="sm_80")]),
    tokens=st.one_of(st.integers(1, 600), st.integers(1, 20_000)),
    model_dim=st.integers(16, 128).map(lambda n: 64 * n),
    inter_dim=st.integers(1, 64).map(lambda n: 32 * n),
    experts=st.integers(8, 512),
    top_k=st.integers(1, 8),
)
def test_the_operator_s_default_is_the_space_s_and_is_legal(
    device: Device, tokens: int, model_dim: int, inter_dim: int, experts: int, top_k: int
) -> None:
    layer = Layer("any", model_dim=model_dim, inter_dim=inter_dim, experts=experts, top_k=top_k, tp=1)
    default = default_config(tokens, LayerDims(model_dim, inter_dim, experts, top_k), device.arch)
    for stage, config in ((Stage.STAGE1, default.stage1), (Stage.STAGE2, default.stage2)):
        space = SPACES[stage].at(layer, tokens, device)
        assert type(config).of(space.default) == config
        assert space.broken_rule(space.default) is None
        check_tokens(stage_spec(stage, space.default, layer, device.runtime), tokens)


def tuned_file(*counts: int, reduce: str = "arrive") -> dict:
    return {
        "format": "autotune-moe-w4a8",
        "version": 1,
        "model_dim": 7168,
        "inter_dim": 256,
        "experts": 384,
        "top_k": 8,
        "entries": [{"tokens": n, "stage1": {"num_stages": n}, "stage2": {"reduce": reduce}} for n in counts],
    }


def test_an_entry_is_picked_by_tokens() -> None:
    tuned = parse_tuned(tuned_file(2, 4, 8), "f.json")
    picked = {tokens: tuned.at(tokens, "sm_90").stage1.num_stages for tokens in (1, 2, 3, 4, 5, 8)}
    assert picked == {1: 2, 2: 2, 3: 4, 4: 4, 5: 8, 8: 8}


@pytest.mark.parametrize("tokens", [1, 9, 40, 4096])
def test_an_entry_is_not_carried_over_a_distance(tokens: int) -> None:
    """More than double, or fewer than any entry was checked at: the default is used, prefill above all."""
    tuned = parse_tuned(tuned_file(4, 8, 160), "f.json")
    assert tuned.at(tokens, "sm_90") == default_config(tokens, KIMI, "sm_90")


def test_an_entry_that_cannot_serve_so_many_tokens_gives_way_to_the_default() -> None:
    tuned = parse_tuned(tuned_file(8, reduce="loop"), "f.json")
    assert tuned.at(8, "sm_90").stage2.reduce == "loop"
    tuned = parse_tuned(tuned_file(24, reduce="loop"), "f.json")
    assert tuned.at(20, "sm_90") == default_config(20, KIMI, "sm_90")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "x"}, "is not an autotune-moe-w4a8 file"),
        ({"version": 2}, "version 2"),
        ({"entries": []}, "no entries"),
        ({"entries": [{"tokens": 4}]}, "incomplete"),
        ({"entries": [{"tokens": 4, "stage1": {"tile_m": 32}, "stage2": {}}]}, "share the sort's blocks"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(change: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_tuned({**tuned_file(4), **change}, "f.json")


def test_a_file_that_is_damaged_anywhere_is_read_or_refused() -> None:
    """Whatever stands in a place: a server reads it at its start."""
    for junk in (None, True, -1, 0, 4.7, float("inf"), "x", [], {}, [[]], {"a": 1}):
        for content in damaged(tuned_file(4, 8), junk):
            with contextlib.suppress(UserError):
                parse_tuned(content, "f.json")


def test_stages_of_a_layer_share_tile_m() -> None:
    with pytest.raises(UserError, match="give both the same"):
        TunedLayer(Stage1Config(tile_m=16), Stage2Config(tile_m=32))
