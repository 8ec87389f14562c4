"""Search spaces: what is legal, why something is not, and the default."""

import random
import re
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.problem.layer import Layer, Stage
from autotune.problem.models import PRESETS
from autotune.resources import data_dir
from autotune.space.config import UNSET, Config
from autotune.space.expressions import Expression
from autotune.space.read import load_spaces, parse_space, parse_spaces, shipped_spaces
from autotune.space.space import BoundSpace
from tests.spaces import KIMI, TEXT, toy_space

TOY = parse_space(TEXT).at(KIMI, 4, DEVICES["mi325x"])


def test_the_walk_yields_every_legal_config_once_and_no_other(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    every = [
        Config(dict(zip((p.name for p in space.params), values, strict=True)))
        for values in product(*(p.values for p in space.params))
    ]
    legal = [config for config in every if space.is_legal(config)]
    assert list(space) == legal
    assert (space.size, space.raw_size) == (len(legal), len(every))


@given(st.integers(0, 1000), st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_drawn_configs_are_legal_and_different_and_ordered(seed: int, count: int) -> None:
    space = TOY
    drawn = space.draw(random.Random(seed), count)
    every = list(space)
    places = [every.index(config) for config in drawn]
    assert len(places) == count
    assert places == sorted(set(places))


def test_drawing_as_many_as_there_are_gives_them_all() -> None:
    assert TOY.draw(random.Random(0), TOY.size) == list(TOY)
    shipped = _shipped("triton", Stage.STAGE2, "h100", KIMI, 4)
    assert shipped.draw(random.Random(0), shipped.size) == list(shipped)


def test_every_config_is_drawn_about_as_often() -> None:
    rng, counts = random.Random(0), Counter[Config]()
    for _ in range(300):
        counts.update(TOY.draw(rng, TOY.size // 2))
    assert len(counts) == TOY.size
    assert min(counts.values()) > 100
    assert max(counts.values()) < 200


@pytest.mark.parametrize("stage", list(Stage))
def test_token_counts_with_the_same_configs_are_seen_to_have_them(stage: Stage) -> None:
    wholes = [_shipped("triton", stage, "h100", KIMI, tokens) for tokens in (1, 8, 16, 40)]
    ends = tuple(replace(p, values=tuple({p.values[0], p.values[-1]})) for p in wholes[0].params)
    spaces = {space.tokens: space.within(ends) for space in wholes}
    seen = {(a, b) for a, b in product(spaces, repeat=2) if spaces[a].has_configs_of(spaces[b])}
    assert seen >= {(1, 8), (8, 1)} | {(tokens, tokens) for tokens in spaces}
    assert seen <= {(a, b) for a, b in product(spaces, repeat=2) if set(spaces[a]) == set(spaces[b])}
    assert (8, 40) not in seen


def test_a_part_of_a_space_does_not_have_its_configs() -> None:
    tile_n = next(param for param in TOY.params if param.name == "tile_n")
    narrowed = tuple(replace(p, values=p.values[:1]) if p is tile_n else p for p in TOY.params)
    assert TOY.has_configs_of(TOY)
    assert not TOY.within(narrowed).has_configs_of(TOY)
    assert not TOY.has_configs_of(TOY.within(narrowed))


def test_a_refused_config_says_by_which_rule(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    rule = space.broken_rule(space.default.replaced(split_k=3))
    assert rule is not None
    assert (rule.name, rule.reason) == ("split-divides", "every part has as many tiles")


def test_unset_reaches_the_rules(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    wide = Config({"tile_n": 128, "split_k": 2, "waves_per_eu": UNSET, "fast": False})
    assert space.is_legal(wide)
    assert not space.is_legal(wide.replaced(waves_per_eu=1))


def test_a_knob_of_another_architecture_is_not_offered_and_is_unset_in_rules(tmp_path: Path) -> None:
    path = tmp_path / "stage1.toml"
    path.write_text(TEXT)
    space = parse_space(path.read_text()).at(KIMI, 4, DEVICES["h100"])
    assert "waves_per_eu" not in space.default
    assert space.is_legal(space.default.replaced(tile_n=128, split_k=2))


def test_a_knob_that_the_installed_compiler_lacks_is_not_offered(tmp_path: Path) -> None:
    path = tmp_path / "stage1.toml"
    path.write_text(TEXT)
    space = parse_space(path.read_text()).at(KIMI, 4, DEVICES["mi325x"], options=frozenset({"num_warps"}))
    assert "waves_per_eu" not in space.default


def test_defaults_may_depend_on_the_problem(tmp_path: Path) -> None:
    assert toy_space(tmp_path, tokens=1).default["split_k"] == 4
    assert toy_space(tmp_path, tokens=4).default["split_k"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile_n": 48}, "use one of 32, 64, 128"),
        ({"fast": 1}, "use one of true, false"),
        ({"speed": 9}, "has no knob speed"),
    ],
)
def test_values_outside_the_space_are_the_users_to_mend(
    tmp_path: Path, change: dict[str, int], message: str
) -> None:
    space = toy_space(tmp_path)
    with pytest.raises(UserError, match=message):
        space.broken_rule(space.default.replaced(**change))


def test_neighbours_differ_in_one_knob_and_are_legal(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    near = space.neighbours(space.default)
    assert len(set(near)) == len(near) > 0
    for other in near:
        assert sum(other[name] != space.default[name] for name in other) == 1
        assert space.is_legal(other)


BOTH = re.sub(r'stage = "stage1"\ndoc = .*', '[stages]\nstage1 = "up"\nstage2 = "down"', TEXT)


def test_one_file_may_be_for_both_stages() -> None:
    assert BOTH != TEXT
    spaces = parse_spaces(BOTH)
    assert {stage: space.doc for stage, space in spaces.items()} == {Stage.STAGE1: "up", Stage.STAGE2: "down"}
    alone = parse_space(TEXT)
    for stage, space in spaces.items():
        assert space == replace(alone, stage=stage, doc=space.doc)


@pytest.mark.parametrize(
    "text",
    [
        BOTH.replace("stage2", "stage3"),
        TEXT.replace('stage = "stage1"', "stages = {}"),
        TEXT.replace("default = 64", "default = 65"),
        TEXT.replace("% (64", "@ (64"),
        TEXT.replace("tile_n <= 64", "open('x')"),
        TEXT.replace("tile_n <= 64", "tile_n.real"),
        TEXT.replace("tile_n <= 64", "tile_q <= 64"),
        TEXT.replace('stage = "stage1"', 'stage = "stage3"'),
        TEXT.replace("[params.tile_n]", "[params.tile_n"),
        TEXT.replace("values = [32, 64, 128]", "values = [32, 64.0, 128]"),
        "",
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    assert text not in (TEXT, BOTH)
    path = tmp_path / "both.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"both\.toml is not a search space"):
        load_spaces(path)


FEATURE = """
[[features]]
name = "in-flight"
size = "tile_n * split_k * (4 if waves_per_eu == unset else waves_per_eu)"
doc = "for the test"

[[features]]
name = "share"
size = "ceil_div(model_dim, tile_n)"
doc = "for the test"
"""


def test_features_are_sizes_of_knobs_and_dimensions(tmp_path: Path) -> None:
    space = toy_space(tmp_path, text=TEXT + FEATURE)
    assert [feature.name for feature in space.space.features] == ["in-flight", "share"]
    assert space.features(space.default) == [64 * 4, 7168 / 64]
    assert space.features(space.default.replaced(split_k=2, waves_per_eu=1)) == [64 * 2, 7168 / 64]
    assert toy_space(tmp_path).features(space.default) == []


def test_a_knob_of_another_architecture_is_unset_in_features(tmp_path: Path) -> None:
    path = tmp_path / "stage1.toml"
    path.write_text(TEXT + FEATURE)
    space = parse_space(path.read_text()).at(KIMI, 4, DEVICES["h100"])
    assert space.features(space.default) == [64 * 4, 7168 / 64]


@pytest.mark.parametrize(
    "feature",
    [
        FEATURE.replace("ceil_div(", "open("),
        FEATURE.replace("split_k *", "split_k @"),
        FEATURE.replace("size =", "length ="),
    ],
)
def test_a_broken_feature_is_one_sentence(tmp_path: Path, feature: str) -> None:
    assert feature != FEATURE
    with pytest.raises(UserError, match="is not a search space"):
        toy_space(tmp_path, text=TEXT + feature)


def test_expressions_know_arithmetic_and_nothing_else() -> None:
    assert Expression.parse("ceil_div(a, 4) == min(3, b) and not (a in (1, 2))")({"a": 9, "b": 7})
    for text in ("__import__('os')", "[x for x in (1,)]", "lambda: 1", "a if b", "f'{a}'", "a.b", "a[0]"):
        with pytest.raises(ValueError, match=r"may|not an expression"):
            Expression.parse(text)


ROOT = data_dir("search_spaces")
# AITER's and FlyDSL's kernels exist for some layers only; tests/backends/ says for which.
FAMILIES = sorted({path.parent.name for path in ROOT.glob("*/*.toml")} - {"aiter", "flydsl"})
SHIPPED = [
    (family, stage, device)
    for family in FAMILIES
    for stage in shipped_spaces(family)
    for device in ("mi325x", "h100")
]


def _layers(*degrees: int) -> list[Layer]:
    return [
        Layer.of(model, tp)
        for model in PRESETS.values()
        for tp in degrees
        if model.moe_intermediate % (2 * tp) == 0
    ]


LAYERS = _layers(1, 2, 4, 8)


def _shipped(backend: str, stage: Stage, device: str, layer: Layer, tokens: int) -> BoundSpace:
    return shipped_spaces(backend)[stage].at(layer, tokens, DEVICES[device])


@pytest.mark.parametrize(("backend", "stage", "device"), SHIPPED)
def test_the_shipped_default_is_legal_at_every_preset_and_shape(
    backend: str, stage: Stage, device: str
) -> None:
    # An engine's default is the engine's: where a split leaves less than its tile, it is what it is.
    for layer in _layers(1, 2, 4, 8, 16, 32) if backend == "triton" else LAYERS:
        for tokens in (1, 2, 3, 4, 5, 6, 7, 8, 160, 320):
            space = _shipped(backend, stage, device, layer, tokens)
            rule = space.broken_rule(space.default)
            assert rule is None, f"{layer.key} at {tokens}: {rule and rule.name}"


@pytest.mark.parametrize(("backend", "stage", "device"), SHIPPED)
@settings(max_examples=15, deadline=None)
@given(layer=st.sampled_from(LAYERS), tokens=st.integers(1, 320), seed=st.integers(0, 10**6))
def test_whatever_a_shipped_space_yields_is_legal(
    backend: str, stage: Stage, device: str, layer: Layer, tokens: int, seed: int
) -> None:
    space = _shipped(backend, stage, device, layer, tokens)
    config = space.sample(random.Random(seed))
    assert space.is_legal(config)
    assert all(space.is_legal(near) for near in space.neighbours(config))


@pytest.mark.parametrize("backend", FAMILIES)
def test_both_stages_ship_one_block_size_by_default(backend: str) -> None:
    for layer in LAYERS:
        for tokens in (1, 4, 8, 160):
            blocks = {_shipped(backend, s, "mi325x", layer, tokens).default.get("tile_m") for s in Stage}
            assert len(blocks) == 1


FOLDERS = sorted({path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.toml")})
FEATURED = [
    (name, stage) for name in FOLDERS for stage, space in shipped_spaces(name).items() if space.features
]


def test_our_own_kernels_name_features() -> None:
    assert {("triton", stage) for stage in Stage} <= set(FEATURED)


@pytest.mark.parametrize("device", ["h100", "mi325x"])
@pytest.mark.parametrize("featured", FEATURED, ids=str)
@settings(max_examples=15, deadline=None)
@given(
    layer=st.sampled_from(LAYERS),
    tokens=st.sampled_from((1, 2, 3, 4, 8, 16, 40, 160, 320, 2048)),
    seed=st.integers(0, 10**6),
)
def test_a_shipped_feature_is_positive_for_every_legal_config(
    featured: tuple[str, Stage], device: str, layer: Layer, tokens: int, seed: int
) -> None:
    """Its logarithm is taken; a knob that is unset, or that the device lacks, must not break it."""
    name, stage = featured
    space = shipped_spaces(name)[stage].at(layer, tokens, DEVICES[device])
    config = space.sample(random.Random(seed))
    for other in (space.default, config, *space.neighbours(config)):
        sizes = space.features(other)
        assert len(sizes) == len(space.space.features)
        assert all(size > 0 for size in sizes), f"{other}: {sizes}"
