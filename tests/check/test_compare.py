"""What is right passes, and a single wrong tile, row or missing part does not."""

import numpy as np
import pytest

from autotune.check.compare import OutputErrors, WrongOutput, bf16, round_bf16
from autotune.protocol.runtime import Path

REFERENCE = np.random.default_rng(0).normal(size=(16, 256))


ONE_ROUNDING = Path()


def error(out: np.ndarray, path: Path = ONE_ROUNDING) -> float:
    errors = OutputErrors(path)
    errors.compare(out, REFERENCE, "case")
    return errors.error()


def test_rounding_passes_with_its_own_error() -> None:
    assert error(round_bf16(REFERENCE)) == pytest.approx(1.66e-3, rel=0.1)


@pytest.mark.parametrize(
    "change",
    [
        lambda out: out.__setitem__((3, slice(16, 32)), out[3, 32:48]),
        lambda out: out.__setitem__((5, 200), -out[5, 200]),
        lambda out: out.__setitem__(slice(None), out * 1.01),
        lambda out: out.__setitem__((2, slice(None)), out[3]),
    ],
    ids=["a shifted tile", "a wrong sign", "a scale off by a percent", "another row"],
)
def test_what_is_wrong_is_found(change) -> None:
    out = round_bf16(REFERENCE)
    change(out)
    with pytest.raises(WrongOutput):
        error(out)


def test_what_was_never_written_is_named() -> None:
    out = round_bf16(REFERENCE)
    out[4, 7] = np.nan
    with pytest.raises(WrongOutput, match="row 4, column 7 of the tile is nan") as wrong:
        error(out)
    assert wrong.value.error == float("inf")


def test_atomics_may_round_more_often() -> None:
    noise = 1 + 2.5e-3 * np.random.default_rng(1).normal(size=REFERENCE.shape)
    assert error(REFERENCE * noise, Path(contributions_bf16=True, bf16_adds=8)) < 3e-3
    with pytest.raises(WrongOutput, match="the path's roundings explain"):
        error(REFERENCE * noise * noise)


def test_partial_sums_are_held_to_float32() -> None:
    errors = OutputErrors(Path())
    errors.compare_float32(REFERENCE.astype(np.float32).astype(np.float64), REFERENCE, "case")
    with pytest.raises(WrongOutput, match="a partial sum is off"):
        errors.compare_float32(round_bf16(REFERENCE), REFERENCE, "case")


def test_nothing_compared_is_no_pass() -> None:
    with pytest.raises(WrongOutput, match="no output was compared"):
        OutputErrors(Path()).error()


def test_bfloat16_rounds_to_the_nearest_even() -> None:
    halves = np.array([0x3F808000, 0x3F818000, 0xBF808001], np.uint32).view(np.float32)
    expected = bf16(np.array([0x3F80, 0x3F82, 0xBF81], np.uint16))
    np.testing.assert_array_equal(round_bf16(halves.astype(np.float64)), expected)
