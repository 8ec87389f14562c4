"""FNUZ 8-bit floats: every code, rounding, overflow, and the instructions that convert."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.emulate import fp8
from autotune.emulate.errors import NotEmulated
from autotune.emulate.launch import Kernel
from tests.emulate.asm import kernel
from tests.emulate.bench import EXECS, active, execute, fresh, get, put

LARGEST = {"fp8": 240.0, "bf8": 57344.0}
SMALLEST = {"fp8": 2.0**-10, "bf8": 2.0**-17}
KINDS = ["fp8", "bf8"]


def value(code: int, kind: str) -> float:
    """A code read field by field, as the guide defines the formats."""
    if code == 0x80:
        return float("nan")
    mantissa_bits, bias = (3, 8) if kind == "fp8" else (2, 16)
    mantissa, exponent = code & (1 << mantissa_bits) - 1, (code & 0x7F) >> mantissa_bits
    sign = -1.0 if code & 0x80 else 1.0
    if exponent == 0:
        return sign * mantissa / (1 << mantissa_bits) * 2.0 ** (1 - bias)
    return sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)


@pytest.mark.parametrize("kind", KINDS)
def test_every_code(kind: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(
        fp8.decode(codes, kind), np.array([value(c, kind) for c in range(256)], np.float32)
    )
    assert np.nanmax(fp8.TABLES[kind]) == LARGEST[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_survives_a_round_trip(kind: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(fp8.encode(fp8.decode(codes, kind), kind), codes)


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_goes_to_the_nearest_and_ties_to_even(kind: str) -> None:
    table = fp8.TABLES[kind][:128].astype(np.float64)
    for below in range(126):
        middle = (table[below] + table[below + 1]) / 2
        step = (table[below + 1] - table[below]) / 16
        x = np.array([middle - step, middle, middle + step], np.float32)
        even = below if below % 2 == 0 else below + 1
        assert fp8.encode(x, kind).tolist() == [below, even, below + 1]
        assert fp8.encode(-x, kind).tolist() == [c | 0x80 if c else 0 for c in (below, even, below + 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_overflow_is_nan_or_saturates(kind: str) -> None:
    x = np.array(
        [LARGEST[kind], LARGEST[kind] * 1.03, LARGEST[kind] * 1.2, -1e9, np.inf, np.nan, -0.0], np.float32
    )
    assert fp8.encode(x, kind).tolist() == [0x7F, 0x7F, 0x80, 0x80, 0x80, 0x80, 0]
    assert fp8.encode(x, kind, saturate=True).tolist() == [0x7F, 0x7F, 0x7F, 0xFF, 0x7F, 0x80, 0]
    tiny = np.array(
        [SMALLEST[kind], SMALLEST[kind] * 0.51, SMALLEST[kind] * 0.5, -SMALLEST[kind] * 0.49], np.float32
    )
    assert fp8.encode(tiny, kind).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("kind", KINDS)
def test_conversion_instructions(kind: str, exec_name: str) -> None:
    wave = fresh(EXECS[exec_name])
    before = wave.v.copy()
    execute(
        wave,
        f"v_cvt_f32_{kind}_e32 v200, v1",
        f"v_cvt_f32_{kind}_sdwa v201, v1 src0_sel:BYTE_2",
        f"v_cvt_pk_f32_{kind}_sdwa v[202:203], v1 src0_sel:WORD_1",
    )
    codes = before[1].view(np.uint8).reshape(64, 4)
    on = active(EXECS[exec_name])
    for row, byte in ((200, 0), (201, 2), (202, 2), (203, 3)):
        expected = fp8.decode(codes[:, byte], kind)
        np.testing.assert_array_equal(get(wave, row, np.float32)[on], expected[on])
        np.testing.assert_array_equal(wave.v[row][~on], before[row][~on])


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("kind", KINDS)
def test_packing_fills_one_half_and_keeps_the_other(kind: str, exec_name: str) -> None:
    wave = fresh(EXECS[exec_name])
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(64).astype(np.float32) * 20 for _ in range(2))
    put(wave, 1, a)
    put(wave, 2, b)
    before = wave.v[130].copy()
    execute(wave, f"v_cvt_pk_{kind}_f32 v130, v1, -v2", f"v_cvt_pk_{kind}_f32 v130, v2, |v1| op_sel:[0,0,1]")
    parts = [fp8.encode(x, kind).astype(np.uint32) for x in (a, -b, b, np.abs(a))]
    expected = parts[0] | parts[1] << 8 | parts[2] << 16 | parts[3] << 24
    np.testing.assert_array_equal(wave.v[130], np.where(active(EXECS[exec_name]), expected, before))


def test_fp16_ovfl_makes_conversions_saturate() -> None:
    wave = fresh()
    put(wave, 1, np.full(64, 1e6, np.float32))
    execute(
        wave,
        "v_cvt_pk_fp8_f32 v2, v1, v1",
        "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 23, 1), 1",
        "v_cvt_pk_fp8_f32 v3, v1, v1",
    )
    assert (int(wave.v[2, 0]) & 0xFFFF, int(wave.v[3, 0]) & 0xFFFF) == (0x8080, 0x7F7F)


@pytest.mark.parametrize(
    "text", ["s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 3", "s_setreg_b32 hwreg(HW_REG_MODE, 23, 1), s0"]
)
def test_other_modes_are_not_emulated(text: str) -> None:
    with pytest.raises(NotEmulated):
        execute(fresh(), text)


def test_fp16_ovfl_with_float16_arithmetic_is_not_emulated() -> None:
    body = "    s_setreg_imm32_b32 hwreg(HW_REG_MODE, 23, 1), 1\n"
    Kernel.from_asm(kernel(body + "    v_cvt_f32_f16_e32 v1, v0\n"))
    with pytest.raises(NotEmulated, match="float16 result"):
        Kernel.from_asm(kernel(body + "    v_pk_add_f16 v1, v0, v0\n"))
