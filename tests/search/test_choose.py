"""Which pairs of stage configs go to the final."""

from hypothesis import given
from hypothesis import strategies as st

from autotune.results import LayerConfig
from autotune.search.choose import finalists, pairs
from autotune.space.config import Config


def config(tile_m: int, tile_n: int = 64) -> Config:
    return Config({"tile_m": tile_m, "tile_n": tile_n})


RANKED = st.lists(
    st.tuples(st.sampled_from([16, 32]), st.integers(1, 40), st.floats(1, 100)), min_size=1, max_size=12
).map(
    lambda rows: sorted({config(m, n): us for m, n, us in rows}.items(), key=lambda row: (row[1], row[0].key))
)


@given(RANKED, RANKED)
def test_pairs_share_the_block_size_and_are_sorted_by_their_sum(
    one: list[tuple[Config, float]], two: list[tuple[Config, float]]
) -> None:
    made = pairs(one, two)
    assert all(pair.stage1["tile_m"] == pair.stage2["tile_m"] for pair, _ in made)
    assert [us for _, us in made] == sorted(us for _, us in made)
    assert all(us == dict(one)[pair.stage1] + dict(two)[pair.stage2] for pair, us in made)


@given(RANKED, RANKED, st.integers(1, 8))
def test_the_default_leads_the_final_and_nobody_runs_twice(
    one: list[tuple[Config, float]], two: list[tuple[Config, float]], most: int
) -> None:
    default = LayerConfig(one[-1][0], two[-1][0])
    published = LayerConfig(one[0][0], two[0][0])
    made = finalists(one, two, default=default, published=published, most=most)
    configs = [finalist.config for finalist in made]
    assert (made[0].label, configs[0]) == ("default", default)
    assert published in configs
    assert len(configs) == len(set(configs)) <= most + 2


def test_the_best_pair_of_unlike_block_sizes_loses_to_a_pair_that_can_be_deployed() -> None:
    one = [(config(16), 1.0), (config(32), 2.0)]
    two = [(config(32), 1.0), (config(16), 5.0)]
    best, us = pairs(one, two)[0]
    assert (best.stage1["tile_m"], us) == (32, 3.0)


@given(RANKED, RANKED)
def test_one_config_for_both_stages_is_what_has_a_time_at_both(
    one: list[tuple[Config, float]], two: list[tuple[Config, float]]
) -> None:
    made = pairs(one, two, one_config=True)
    assert {pair.stage1 for pair, _ in made} == set(dict(one)) & set(dict(two))
    assert all(pair.stage1 == pair.stage2 for pair, _ in made)
    assert [us for _, us in made] == sorted(us for _, us in made)


def test_one_config_that_leads_at_no_stage_may_lead_at_both() -> None:
    one = [(config(16, n), us) for n, us in ((1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 4.5))]
    two = [(config(16, n), us) for n, us in ((5, 1.0), (4, 9.0), (3, 9.5), (2, 9.8), (1, 9.9))]
    default = LayerConfig(config(16, 2), config(16, 2))
    unlike = LayerConfig(config(16, 1), config(16, 5))
    made = finalists(one, two, default=default, published=unlike, most=2, one_config=True)
    # The fifth of stage 1 is the best of all; the published pair has two configs, which no file can hold.
    assert [f.config.stage1["tile_n"] for f in made] == [2, 5, 1]
    assert all(f.config.stage1 == f.config.stage2 for f in made)


def test_a_knob_that_reaches_beyond_its_stage_is_tried_both_ways_in_the_final() -> None:
    def pdl(tile_n: int, on: bool) -> Config:
        return config(16, tile_n).replaced(pdl=on)

    one = [(pdl(n, False), 10.0 + n / 1000) for n in range(8)] + [(pdl(8, True), 11.0)]
    two = [(pdl(n, False), 10.0 + n / 1000) for n in range(8)] + [(pdl(8, True), 11.0)]
    default = LayerConfig(pdl(9, False), pdl(9, False))
    made = finalists(one, two, default=default, published=None, most=8, coupled={"pdl"})
    both = {(f.config.stage1["pdl"], f.config.stage2["pdl"]) for f in made}
    assert both == {(False, False), (False, True), (True, False), (True, True)}
    assert LayerConfig(pdl(0, False), pdl(0, False)) in [finalist.config for finalist in made]
    assert len(made) == 9


def test_half_of_the_places_are_for_combinations_and_the_others_for_the_best_sums() -> None:
    """The fastest combination is the best sum itself, so half and half overlap in it."""
    ranked = [
        (config(16, n).replaced(pdl=on), us)
        for n, on, us in ((1, False, 1.0), (2, False, 2.0), (3, True, 50.0), (4, False, 60.0))
    ]
    default = LayerConfig(config(32, 9), config(32, 9))
    made = finalists(ranked, ranked, default=default, published=None, most=4, coupled=["pdl"])
    sums = [(f.config.stage1["tile_n"], f.config.stage2["tile_n"]) for f in made[1:]]
    assert sums == [(1, 1), (1, 3), (1, 2), (2, 1)]
    assert [f.label for f in made] == ["default", *["candidate"] * 4]


def test_of_each_stage_the_best_four_of_a_block_size_are_paired() -> None:
    ranked = [(config(block, n), float(n)) for n in range(1, 7) for block in (16, 32)]
    default = LayerConfig(config(64), config(64))
    made = finalists(ranked, ranked, default=default, published=None, most=99)
    assert len(made) == 1 + 2 * 4 * 4
    assert {f.config.stage1["tile_n"] for f in made[1:]} == {1, 2, 3, 4}


def test_of_equal_sums_the_order_is_that_of_their_keys() -> None:
    ranked = [(config(16, n), 1.0) for n in (3, 1, 2)]
    for one_config in (False, True):
        keys = [pair.key for pair, _ in pairs(ranked, ranked, one_config=one_config)]
        assert keys == sorted(keys)


def test_a_published_config_is_in_the_final_once() -> None:
    ranked = [(config(16, n), float(n)) for n in (1, 2)]
    default, best = (LayerConfig(config(16, n), config(16, n)) for n in (9, 1))
    made = finalists(ranked, ranked, default=default, published=best, most=1)
    assert [(f.label, f.config.stage1["tile_n"]) for f in made] == [
        ("default", 9),
        ("published", 1),
        ("candidate", 1),
    ]
    assert made[2].config != best
    (only,) = finalists([], [], default=default, published=default, most=1)
    assert only.label == "default"
    kept = finalists(ranked, ranked, default=default, published=best, most=0, one_config=True)
    assert [f.label for f in kept] == ["default", "published"]


def test_combinations_are_those_of_a_block_size() -> None:
    """The fastest with a combination may have a block size that its partner has not."""
    one = [(config(16, 1).replaced(pdl=True), 1.0), (config(32, 2).replaced(pdl=True), 9.0)]
    two = [(config(32, 3).replaced(pdl=False), 1.0)]
    default = LayerConfig(config(64), config(64))
    made = finalists(one, two, default=default, published=None, most=2, coupled={"pdl"})
    assert [f.config.stage1["tile_n"] for f in made[1:]] == [2]
