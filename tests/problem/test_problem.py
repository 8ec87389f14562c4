"""Models, shapes and problems: what can be, and what is said of what cannot."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.problem.arithmetic import W4A8
from autotune.problem.layer import (
    Layer,
    Problem,
    Stage,
    WeightBytes,
    gemm_dims,
    parse_concurrency,
    parse_shapes,
    problems,
)
from autotune.problem.models import PRESETS, from_hf_config, preset
from autotune.problem.routing import Routing
from tests.spaces import KIMI


def test_kimi_at_tp8_has_the_published_dimensions() -> None:
    assert (KIMI.model_dim, KIMI.inter_dim, KIMI.experts, KIMI.top_k) == (7168, 256, 384, 8)
    assert gemm_dims(KIMI, Stage.STAGE1) == (512, 7168)
    assert gemm_dims(KIMI, Stage.STAGE2) == (7168, 256)


def test_fused_shared_experts_are_one_more_expert_and_one_more_choice() -> None:
    layer = Layer.of(preset("kimi-k2.5-w4a8").with_fused_shared_experts(), tp=8)
    assert (layer.experts, layer.top_k) == (385, 9)
    assert layer.key != KIMI.key


@given(
    st.text("abc.-/", min_size=1),
    st.integers(2, 64),
    st.integers(1, 64),
    st.integers(2, 512),
    st.integers(1, 64),
)
def test_without_expert_parallelism_a_layer_is_known_by_what_it_always_was(
    model: str, width: int, inter: int, experts: int, tp: int
) -> None:
    layer = Layer(model, width, inter, experts, 2, tp)
    assert layer.key == f"{model}/tp{tp}/d{width}.i{inter}.e{experts}.k2"
    assert Problem(layer, 4, 2).key == f"{layer.key}/m4.c2/uniform"
    assert layer.dims == {
        "model": model,
        "model_dim": width,
        "inter_dim": inter,
        "experts": experts,
        "top_k": 2,
        "tp": tp,
    }


@pytest.mark.parametrize(
    ("tp", "ep", "experts", "width"),
    [
        (8, 1, 384, 256),
        (8, 8, 48, 2048),
        (8, 4, 96, 1024),
        (1, 8, 48, 2048),
        (2, 8, 48, 2048),
        (8, 2, 192, 512),
    ],
)
def test_experts_are_spread_and_split_as_the_engines_do_with_these_degrees(
    tp: int, ep: int, experts: int, width: int
) -> None:
    layer = Layer.of(preset("kimi-k2.5-w4a8"), tp, ep)
    assert (layer.experts, layer.inter_dim, layer.routed, layer.top_k) == (experts, width, 384, 8)
    assert layer.spread_as(Problem(layer, 4).key) == layer
    assert replace(layer, ep=1).spread_as(Problem(layer, 4).key) == layer


@pytest.mark.parametrize(
    ("tp", "ep", "remedy"),
    [(8, 5, "384 experts evenly"), (8, 0, "divides"), (8, 3, "divides"), (8, 12, "divides")],
)
def test_experts_that_cannot_be_spread_are_refused(tp: int, ep: int, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        Layer.of(preset("kimi-k2.5-w4a8"), tp, ep)


ROUTINGS = [Routing(), Routing("zipf", 1.2), Routing("correlated", 0.5)]


@pytest.mark.parametrize("routing", ROUTINGS, ids=lambda routing: routing.kind)
def test_a_gpu_sees_all_tokens_and_its_share_of_their_experts(routing: Routing) -> None:
    spread = Layer.of(preset("kimi-k2.5-w4a8"), 8, 8)
    problem = Problem(spread, 4, 40, routing)
    ids = problem.draw(20, seed=3)
    whole = Problem(Layer.of(preset("kimi-k2.5-w4a8"), 1), 4, 40, routing).draw(20, seed=3)
    assert ids.shape == (20, 160, 8)
    here = ids >= 0
    assert (ids[here] == whole[whole < 48]).all()
    assert (whole[~here] == -1 - ids[~here]).all(), "unlike experts of others stay unlike"
    if routing.kind != "zipf":
        assert here.sum() / 20 == pytest.approx(problem.expected_slots(), rel=0.1)
        assert here.any(axis=2).sum() / 20 == pytest.approx(problem.expected_tokens(), rel=0.1)
    if routing.kind == "uniform":
        visited = [len(set(step[step >= 0].tolist())) for step in ids]
        assert sum(visited) / 20 == pytest.approx(problem.expected_experts(), rel=0.1)


def test_a_recording_of_all_experts_gives_a_gpu_its_share(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text("[[0, 9], [3, 2]]\n")
    layer = Layer("any", 64, 64, 4, 2, 4, ep=4)
    problem = problems(layer, [2], [1], Routing.parse(f"file:{path}"))[0]
    assert problem.draw(1, 0).tolist() == [[[0, -10], [3, 2]]]


def test_a_model_without_shared_experts_cannot_fuse_them() -> None:
    with pytest.raises(UserError, match="leave out --fused-shared-experts"):
        preset("gpt-oss-120b").with_fused_shared_experts()


@pytest.mark.parametrize("tp", [0, -1, 3, 2048])
def test_tp_that_does_not_split_names_those_that_do(tp: int) -> None:
    with pytest.raises(UserError, match=r"use one of 1, 2, 4, 8"):
        Layer.of(preset("kimi-k2.5-w4a8"), tp)


def test_an_odd_width_has_no_split() -> None:
    with pytest.raises(UserError, match="none does, as it is odd"):
        Layer.of(replace(preset("kimi-k2.5-w4a8"), moe_intermediate=1407), 1)


def test_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"kimi-k2\.5-w4a8"):
        preset("kimi")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_read_back_from_its_config_json_is_itself(name: str, tmp_path: Path) -> None:
    model = PRESETS[name]
    path = tmp_path / "config.json"
    dims = {
        "hidden_size": model.model_dim,
        "moe_intermediate_size": model.moe_intermediate,
        "n_routed_experts": model.experts,
        "num_experts_per_tok": model.top_k,
        "n_shared_experts": model.shared_experts,
    }
    path.write_text(json.dumps({"_name_or_path": f"org/{name}", "text_config": dims}))
    assert from_hf_config(path) == model


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hidden_size": -1}', '{"hidden_size": true}'])
def test_a_file_that_is_no_moe_config_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        from_hf_config(path)


def test_shapes() -> None:
    assert parse_shapes("m4") == [4]
    assert parse_shapes("m4, m1,m4") == [1, 4]
    assert parse_shapes("all") == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("text", ["m0", "m9", "4", "", "m", "m4,", "m-1", "m1.5", "M4"])
def test_a_shape_that_cannot_be_says_which_can(text: str) -> None:
    with pytest.raises(UserError, match="m1 to m8"):
        parse_shapes(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", "1,,2", ""])
def test_a_concurrency_that_cannot_be(text: str) -> None:
    with pytest.raises(UserError, match="use 1 to"):
        parse_concurrency(text)


def test_concurrency_multiplies_tokens_and_makes_another_problem() -> None:
    one, forty = problems(KIMI, [4], [1, 40], Routing())
    assert (one.tokens, forty.tokens) == (4, 160)
    assert one.key != forty.key


def test_equal_tokens_from_unlike_shapes_are_unlike_problems() -> None:
    assert Problem(KIMI, 4, 2).key != Problem(KIMI, 8, 1).key


@given(st.integers(1, 8), st.integers(1, 64))
def test_more_tokens_touch_more_experts_but_never_more_than_there_are(m: int, c: int) -> None:
    fewer, more = Problem(KIMI, m, c), Problem(KIMI, m, c + 1)
    assert KIMI.top_k <= fewer.expected_experts() + 1e-9
    assert fewer.expected_experts() < more.expected_experts() + 1e-9 <= KIMI.experts + 1e-6


def test_byte_floor_at_m4_is_that_of_the_fact_sheet() -> None:
    problem = Problem(KIMI, 4)
    w4a8 = WeightBytes.of(W4A8[0])
    assert w4a8.read(problem, Stage.STAGE1) == pytest.approx(57e6, rel=0.01)
    assert w4a8.read(problem, Stage.STAGE2) == pytest.approx(29.3e6, rel=0.01)
