"""One way to read a number."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.quantities import (
    is_number,
    load_json,
    load_toml,
    not_negative,
    number,
    parse_number,
    parse_whole,
    positive,
    us_per_unit,
    whole,
)

NO_NUMBERS = [None, True, False, "1", "nan", [], {}, float("nan"), float("inf"), -float("inf"), 10**400]


@pytest.mark.parametrize("raw", NO_NUMBERS)
def test_what_is_no_finite_number_is_refused_by_every_reader_with_its_place(raw: Any) -> None:
    assert not is_number(raw)
    for read in (number, positive, not_negative, whole):
        with pytest.raises(UserError, match=r"^a\.json: time is .* is needed$"):
            read(raw, "a.json: time")


def test_the_sign_and_the_fraction_are_looked_at() -> None:
    assert positive(2, "t") == 2.0
    assert not_negative(0, "t") == 0.0
    assert whole(2.0, "t") == 2
    assert number(-1.5, "t") == -1.5
    for read, raw in [(positive, 0), (positive, -1), (not_negative, -1), (whole, 0.5), (whole, -1)]:
        with pytest.raises(UserError):
            read(raw, "t")
    with pytest.raises(UserError, match="from 1 "):
        whole(0, "t", least=1)


@pytest.mark.parametrize("text", ["nan", "inf", "1_0", "", "0x10", "1e999", "\u0664", "1,5"])
def test_an_options_text_is_decimal(text: str) -> None:
    assert parse_number(text) is None
    assert parse_whole(text) is None


def test_numbers_of_options_are_read() -> None:
    assert [parse_number(text) for text in ("4", ".5", "1.", "1e-3", "-2")] == [4.0, 0.5, 1.0, 1e-3, -2.0]
    assert [parse_whole(text) for text in ("4", " 160 ", "-1", "1.0")] == [4, 160, None, None]


def test_units_of_time_are_known_or_refused() -> None:
    assert us_per_unit("s", "") == 1000 * us_per_unit("ms", "") == 1e9 * us_per_unit("ns", "")
    for unit in ("min", "", None, 1):
        with pytest.raises(UserError, match="no known unit of time"):
            us_per_unit(unit, "a.json: unit")


def test_json_and_toml_that_are_nested_without_end_are_none() -> None:
    with pytest.raises(ValueError, match="nested"):
        load_json("[" * 200_000)
    with pytest.raises(ValueError, match="nested"):
        load_toml("a = " + "[" * 50_000)


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=3)
)
def test_a_number_is_read_or_refused_in_one_sentence(raw: Any) -> None:
    for read in (number, positive, not_negative, whole):
        text = ""
        try:
            json.dumps(read(raw, "x"), allow_nan=False)
        except UserError as error:
            text = str(error)
        assert len(text) < 120
