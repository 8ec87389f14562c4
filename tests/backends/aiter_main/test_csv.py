"""Rows for AITER's table."""

import csv
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.backends.aiter.knobs import bucket as published_bucket
from autotune.backends.aiter_main.csv import (
    COLUMNS,
    FmoeKey,
    FmoeRow,
    bucket,
    columns_of,
    merge_list,
    table_csv,
    without_keys,
)
from autotune.errors import UserError

KEY = FmoeKey("gfx942", 304, 7168, 256, 384, 8, "torch.float8_e4m3fnuz", ("torch.uint32", "torch.int4"))
PLAIN = FmoeKey("gfx942", 304, 7168, 256, 384, 8, "torch.int8", ("torch.int8",))


def row(tokens: int) -> FmoeRow:
    return FmoeRow(tokens, 16, f"one_{tokens}", f"two_{tokens}", 10.0, 5.0)


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_columns_of_an_installed_table_are_taken_over_in_their_order() -> None:
    installed = [*reversed(COLUMNS), "something_new"]
    assert columns_of(table_csv(KEY, [row(4)], installed)) == installed


def test_each_name_under_which_an_engine_asks_for_int4_has_a_row() -> None:
    rows = parsed(table_csv(KEY, [row(4)], COLUMNS))
    assert [r["q_dtype_w"] for r in rows] == ["torch.uint32", "torch.int4"]


def test_a_row_says_what_was_chosen() -> None:
    (made,) = parsed(table_csv(PLAIN, [row(4)], COLUMNS))
    assert (made["gfx"], made["cu_num"], made["token"], made["expert"]) == ("gfx942", "304", "4", "384")
    assert (made["block_m"], made["kernelName1"], made["kernelName2"]) == ("16", "one_4", "two_4")
    assert (made["us1"], made["us2"], made["us"]) == ("10.0000", "5.0000", "15.0000")
    assert (made["use_g1u1"], made["doweight_stage1"], made["act_type"]) == ("1", "0", "ActivationType.Silu")


def test_two_rows_for_one_bucket_are_refused() -> None:
    with pytest.raises(UserError, match="bucket of 4"):
        table_csv(PLAIN, [row(4), row(4)], COLUMNS)


BUCKETS = {"published": published_bucket, "main": bucket}
"""By AITER's generation."""


@given(st.integers(1, 16), st.sampled_from(sorted(BUCKETS)))
def test_verify_shapes_are_rounded_up_to_powers_of_two(tokens: int, generation: str) -> None:
    rounded = BUCKETS[generation](tokens)
    assert rounded >= tokens > rounded // 2
    assert rounded & (rounded - 1) == 0


def test_three_and_four_share_a_row() -> None:
    assert bucket(3) == bucket(4) == 4


@pytest.mark.parametrize(
    ("generation", "rounded", "first", "last"),
    [
        # Up to a power of two, and from the last of those on down to the bucket, as `get_padded_M` has it.
        ("published", 512, 257, 512),
        ("published", 1024, 513, 2047),
        ("published", 2048, 2048, 16383),
        ("published", 16384, 16384, 1 << 20),
        ("main", 4096, 2049, 4096),
        ("main", 16384, 8193, 16384),
        ("main", 32768, 16385, 131071),
        ("main", 131072, 131072, 1 << 20),
    ],
)
def test_prefill_is_looked_up_by_the_generations_own_buckets(
    generation: str, rounded: int, first: int, last: int
) -> None:
    assert [BUCKETS[generation](tokens) for tokens in (first, last)] == [rounded, rounded]


def test_a_shipped_row_with_our_key_is_taken_out_of_a_copy() -> None:
    ours = table_csv(PLAIN, [row(4)], COLUMNS)
    shipped = table_csv(PLAIN, [row(2), row(4), row(8)], COLUMNS)
    left = without_keys(shipped, ours)
    assert left is not None
    assert [r["token"] for r in parsed(left)] == ["2", "8"]


def test_a_shipped_table_without_our_keys_is_used_as_it_is() -> None:
    assert without_keys(table_csv(PLAIN, [row(2)], COLUMNS), table_csv(PLAIN, [row(4)], COLUMNS)) is None


def test_ours_is_merged_first() -> None:
    assert merge_list(["/b/ours.csv", "/a/tuned_fmoe.csv"]) == f"/b/ours.csv{os.pathsep}/a/tuned_fmoe.csv"
    with pytest.raises(UserError, match="splits the list"):
        merge_list([f"/b{os.pathsep}c/ours.csv"])
