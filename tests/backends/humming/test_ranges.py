"""Ranges of rows: none is missing, the tuned ones are in front, the rest is humming's own."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.backends.humming.ranges import MOST_ROWS, Range, at, overlaid, require_whole, rows_of
from autotune.errors import UserError

TOP_K = 8
OWN: list[Range] = [(0, 8, {"own": 0}), (8, 640, {"own": 1}), (640, MOST_ROWS, {"own": 2})]
TUNED = st.sets(st.integers(1, 400), max_size=12)


def tuned_at(tokens: set[int]) -> dict[tuple[int, int], dict[str, int]]:
    return {rows_of(count, TOP_K): {"tokens": count} for count in tokens}


def test_a_range_of_one_count_holds_all_rows_of_its_last_token() -> None:
    assert rows_of(1, 8) == (0, 8)
    assert rows_of(160, 8) == (1272, 1280)


@given(TUNED)
def test_every_count_gets_what_was_tuned_for_it_and_every_other_humming_s_own(tokens: set[int]) -> None:
    ranges = overlaid(OWN, tuned_at(tokens))
    require_whole(ranges)
    for count in {*range(1, 402), 4096}:
        rows = count * TOP_K
        expected = {"tokens": count} if count in tokens else at(OWN, rows)
        assert at(ranges, rows) == expected


@given(st.integers(1, 400), st.integers(1, 12))
def test_a_tuned_range_holds_one_number_of_tokens_the_one_that_was_measured(tokens: int, top_k: int) -> None:
    above, up_to = rows_of(tokens, top_k)
    held = [count for count in range(tokens + 3) if above < count * top_k <= up_to]
    assert held == [tokens]  # its least and its greatest


@given(TUNED)
def test_neighbours_with_one_entry_are_one_range(tokens: set[int]) -> None:
    ranges = overlaid(OWN, tuned_at(tokens))
    assert all(left[2] != right[2] for left, right in pairwise(ranges))


@pytest.mark.parametrize(
    "broken",
    [OWN[1:], OWN[:2], [OWN[0], OWN[2]], [(0, 8, {}), (4, MOST_ROWS, {})]],
    ids=["begins late", "ends early", "a gap", "an overlap"],
)
def test_ranges_that_leave_rows_out_are_refused(broken: list[Range]) -> None:
    with pytest.raises(UserError, match="use humming-kernels"):
        overlaid(broken, {})
    with pytest.raises(UserError, match="no range holds"):
        at([], 3)
