"""A file's keys, under the nearest-key rule of SGLang and vLLM."""

from hypothesis import given
from hypothesis import strategies as st

from autotune.protocol.key_table import GUARDS, key_table, looked_at, nearest


def default(tokens: int) -> str:
    """An engine's rule with one step, as SGLang's at 384 experts."""
    return "small" if tokens <= 384 else "large"


TUNED = st.dictionaries(st.integers(1, 600), st.sampled_from(["a", "b", "small"]), max_size=8)


@given(TUNED)
def test_a_tuned_count_gets_what_was_tuned(tuned: dict[int, str]) -> None:
    table = key_table(tuned, default, most=1024)
    for tokens, config in tuned.items():
        assert table[nearest(table, tokens)] == config


@given(TUNED)
def test_keys_ascend(tuned: dict[int, str]) -> None:
    keys = list(key_table(tuned, default, most=1024))
    assert keys == sorted(keys)


@given(TUNED)
def test_leaving_keys_out_changes_no_lookup(tuned: dict[int, str]) -> None:
    table = key_table(tuned, default, most=1024)
    everything = {
        **{1 << p: default(1 << p) for p in range(11)},
        384: default(384),
        385: default(385),
        **tuned,
    }
    for tokens in range(1, 1025):
        assert table[nearest(table, tokens)] == everything[nearest(everything, tokens)]


def test_nothing_tuned_is_the_engines_own_rule_at_every_count() -> None:
    table = key_table({}, default)
    assert all(table[nearest(table, m)] == default(m) for m in range(1, 16385))


def test_a_decode_only_study_leaves_prefill_as_it_was() -> None:
    table = key_table({1: "a", 2: "b", 4: "c", 8: "d"}, default)
    assert all(table[nearest(table, m)] == default(m) for m in range(13, 16385))


def test_three_five_six_and_seven_are_written_where_the_nearest_key_has_something_else() -> None:
    tuned = {1: "a", 2: "b", 3: "x", 4: "c", 5: "y", 6: "z", 7: "v", 8: "d"}
    assert list(key_table(tuned, default))[:9] == [1, 2, 3, 4, 5, 6, 7, 8, 16]


def test_and_left_out_where_it_has_the_same() -> None:
    # The engine takes 2 for M = 3 and 4 for M = 5 and 6, 8 for 7.
    tuned = {1: "a", 2: "b", 3: "b", 4: "c", 5: "c", 6: "c", 7: "d", 8: "d"}
    assert list(key_table(tuned, default))[:5] == [1, 2, 4, 8, 16]


def test_of_two_keys_equally_near_the_smaller_serves() -> None:
    assert nearest([2, 4], 3) == 2
    assert nearest([4, 8], 6) == 4


def test_verify_shapes_tuned_counts_and_guards_are_looked_at() -> None:
    assert looked_at([4, 160]) == [1, 2, 3, 4, 5, 6, 7, 8, 64, 160, 512, 4096]
    assert GUARDS == (64, 512, 4096)
