"""Floating-point vector instructions against exact arithmetic, lane by lane."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.emulate import floats
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import VCC
from tests.emulate.bench import EXECS, active, bits, execute, fresh, get, lanewise, put

F32, F16 = np.float32, np.float16
EDGES = np.array(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        -2.5,
        1e-45,
        -1e-45,
        2**-126,
        2**-127,
        3.4e38,
        -3.4e38,
        np.inf,
        -np.inf,
        np.nan,
        127.5,
        65504,
        65520,
        1e-7,
        16777217,
        2147483648,
        4294967296,
        -0.1,
    ],
    F32,
)


def values(seed: int, dtype: type = F32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wide = (rng.standard_normal(64) * 10.0 ** rng.integers(-4, 5, 64)).astype(F32)
    wide[: len(EDGES)] = rng.permutation(EDGES)
    with np.errstate(all="ignore"):
        return wide.astype(dtype)


def exact_fma(a: float, b: float, c: float, dtype: type = F32) -> np.floating:
    """a·b + c rounded once, by exact rational arithmetic."""
    if not all(map(math.isfinite, (a, b, c))):
        return dtype(np.float64(a) * b + c)
    total = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if total == 0:
        return dtype(np.float64(a) * b + c)
    return round_fraction(total, dtype)


def round_fraction(value: Fraction, dtype: type) -> np.floating:
    """Nearest even in float32 or float16, by hand: scale to the last place, round, scale back."""
    digits, smallest = (24, -149) if dtype is F32 else (11, -24)
    exponent = math.floor(math.log2(abs(value))) if value else 0
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    last = max(exponent - digits + 1, smallest)
    with np.errstate(all="ignore"):
        magnitude = float(round(abs(value) / Fraction(2) ** last) * Fraction(2) ** last)
        return dtype(math.copysign(magnitude, value))  # what underflows keeps its sign


def larger(a: float, b: float) -> float:
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return a if (a, -math.copysign(1, b)) > (b, -math.copysign(1, a)) else b


def smaller(a: float, b: float) -> float:
    return -larger(-a, -b)


def middle(a: float, b: float, c: float) -> float:
    if any(map(math.isnan, (a, b, c))):
        return smaller(smaller(a, b), c)
    return smaller(larger(a, b), larger(smaller(a, b), c))


ARITHMETIC: dict[str, tuple[int, Callable[..., float]]] = {
    "add": (2, lambda a, b: a + b),
    "sub": (2, lambda a, b: a - b),
    "subrev": (2, lambda a, b: b - a),
    "mul": (2, lambda a, b: a * b),
    "max": (2, larger),
    "min": (2, smaller),
    "max3": (3, lambda a, b, c: larger(larger(a, b), c)),
    "min3": (3, lambda a, b, c: smaller(smaller(a, b), c)),
    "med3": (3, middle),
    "floor": (1, lambda a: math.floor(a) if math.isfinite(a) and a else a),
    "ceil": (1, lambda a: math.copysign(math.ceil(a), a) if math.isfinite(a) else a),
    "trunc": (1, lambda a: math.copysign(math.trunc(a), a) if math.isfinite(a) else a),
    "rndne": (1, lambda a: math.copysign(round(a), a) if math.isfinite(a) else a),
}


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("row", [4, 190])
@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name: str, kind: str, row: int, exec_name: str) -> None:
    count, reference = ARITHMETIC[name]
    dtype = F32 if kind == "f32" else F16
    wave = fresh(EXECS[exec_name])
    inputs = [values(seed, dtype) for seed in range(count)]
    for i, column in enumerate(inputs):
        put(wave, row + i, column if dtype is F32 else column.view(np.uint16).astype(np.uint32))
    suffix = "" if count == 3 else "_e32"
    old = wave.v[row].copy()
    execute(wave, f"v_{name}_{kind}{suffix} v{row}, " + ", ".join(f"v{row + i}" for i in range(count)))
    # float64 holds the sum and product of two of these exactly enough: one rounding is left.
    expected = lanewise(reference, dtype, *(column.astype(np.float64) for column in inputs))
    raw = bits(expected) if dtype is F32 else expected.view(np.uint16).astype(np.uint32)
    if dtype is F16 and count == 3:
        raw = raw | old & np.uint32(0xFFFF_0000)
    same_nan = np.isnan(expected) & np.isnan(get(wave, row, F32) if dtype is F32 else low_half(wave.v[row]))
    on = active(EXECS[exec_name])
    wrong = on & (wave.v[row] != raw) & ~same_nan
    assert not wrong.any(), [(c[wrong], expected[wrong]) for c in inputs]
    np.testing.assert_array_equal(wave.v[row][~on], old[~on])


def low_half(row: np.ndarray) -> np.ndarray:
    return (row & 0xFFFF).astype(np.uint16).view(F16)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
finite16 = st.floats(width=16, allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None)
@given(finite, finite, finite)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    with np.errstate(all="ignore"):
        got = floats.fma32(*(np.full(64, v, F32) for v in (a, b, c)))[0]
    expected = exact_fma(F32(a), F32(b), F32(c))
    assert bits(got) == bits(expected), (a, b, c)


def test_fma_rounds_once_where_two_roundings_differ() -> None:
    # a·b + c is 2**-56 below the middle of two float32; float64 sees exactly the middle and would go up to
    # even.
    a, b, c = F32(2**-12 * (1 + 2**-16)), F32(2**-12 * (1 - 2**-16)), F32(1 + 2**-23)
    with np.errstate(all="ignore"):
        got = floats.fma32(*(np.full(64, v) for v in (a, b, c)))[0]
    assert got == c
    assert F32(np.float64(a) * b + c) == F32(1 + 2**-22)


@settings(max_examples=200, deadline=None)
@given(finite16, finite16, finite16)
def test_fma_f16_rounds_once(a: float, b: float, c: float) -> None:
    with np.errstate(all="ignore"):
        got = floats.fma16(*(np.full(64, v, F16) for v in (a, b, c)))[0]
    expected = exact_fma(F16(a), F16(b), F16(c), F16)
    assert got.view(np.uint16) == np.asarray(expected).view(np.uint16), (a, b, c)


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("v_fma_f32 v10, v1, v2, v3", (1, 2, 3)),
        ("v_fmac_f32_e32 v3, v1, v2", (1, 2, 3)),
        ("v_fmamk_f32 v10, v1, 0x40400000, v2", (1, None, 2)),
        ("v_fmaak_f32 v10, v1, v2, 0x40400000", (1, 2, None)),
    ],
)
def test_fma_operand_order(text: str, order: tuple[int | None, ...]) -> None:
    wave = fresh()
    for row in (1, 2, 3):
        put(wave, row, np.random.default_rng(row).standard_normal(64).astype(F32))
    inputs = [np.full(64, F32(3)) if row is None else get(wave, row, F32) for row in order]
    execute(wave, text)
    expected = lanewise(exact_fma, F32, *inputs)
    np.testing.assert_array_equal(get(wave, 3 if "fmac" in text else 10, F32), expected)


def test_source_and_result_modifiers() -> None:
    wave = fresh()
    put(wave, 1, np.full(64, -2.0, F32))
    put(wave, 2, np.full(64, 0.25, F32))
    execute(
        wave,
        "v_add_f32_e64 v3, -|v1|, v2",
        "v_mul_f32_e64 v4, -v1, v2 clamp",
        "v_add_f32_e64 v5, v1, v2 clamp",
        "v_add_f32_e64 v6, |v1|, v2 clamp",
    )
    assert [float(get(wave, row, F32)[9]) for row in (3, 4, 5, 6)] == [-1.75, 0.5, 0.0, 1.0]


TRANSCENDENTAL = {
    "exp": lambda a: 2.0**a,
    "log": lambda a: math.log2(a) if a > 0 else (-math.inf if a == 0 else math.nan),
    "rcp": lambda a: 1 / a if a else math.copysign(math.inf, a),
    "rsq": lambda a: 1 / math.sqrt(a) if a > 0 else (math.copysign(math.inf, a) if a == 0 else math.nan),
    "sqrt": lambda a: math.sqrt(a) if a >= 0 else math.nan,
    "sin": lambda a: math.sin(2 * math.pi * a),
    "cos": lambda a: math.cos(2 * math.pi * a),
}


@pytest.mark.parametrize("name", TRANSCENDENTAL)
def test_transcendental_functions_within_one_ulp(name: str) -> None:
    wave = fresh()
    a = np.linspace(-3, 100, 64).astype(F32)
    put(wave, 1, a)
    execute(wave, f"v_{name}_f32_e32 v2, v1")
    expected = lanewise(TRANSCENDENTAL[name], F32, a.astype(np.float64))
    np.testing.assert_allclose(
        get(wave, 2, F32), expected, rtol=1.3e-7, atol=2e-6 if name in {"sin", "cos"} else 0
    )


def test_transcendental_functions_flush_denormals() -> None:
    wave = fresh()
    put(wave, 1, np.array([-140.0, 3e38, 2.0**-127, -(2.0**-130)] * 16, F32))
    execute(wave, "v_exp_f32_e32 v2, v1", "v_rcp_f32_e32 v3, v1")
    assert get(wave, 2, F32)[0] == 0
    assert get(wave, 3, F32)[:4].tolist() == [F32(1 / -140.0), 0.0, np.inf, -np.inf]


def saturated(a: float, low: int, high: int) -> int:
    if math.isnan(a):
        return 0
    return int(min(max(a, low), high))


CONVERSIONS: dict[str, tuple[type, type, Callable[[float], float]]] = {
    "v_cvt_f32_i32_e32": (np.int32, F32, float),
    "v_cvt_f32_u32_e32": (np.uint32, F32, float),
    "v_cvt_i32_f32_e32": (F32, np.int32, lambda a: saturated(a, -(2**31), 2**31 - 1)),
    "v_cvt_u32_f32_e32": (F32, np.uint32, lambda a: saturated(a, 0, 2**32 - 1)),
    "v_cvt_flr_i32_f32_e32": (
        F32,
        np.int32,
        lambda a: saturated(math.floor(a) if math.isfinite(a) else a, -(2**31), 2**31 - 1),
    ),
    **{
        f"v_cvt_f32_ubyte{i}_e32": (np.uint32, F32, lambda a, i=i: float(int(a) >> 8 * i & 255))
        for i in range(4)
    },
    "v_cvt_off_f32_i4_e32": (np.uint32, F32, lambda a: ((int(a) & 15) - 16 * (int(a) >> 3 & 1)) / 16),
}


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("row", [4, 214])
@pytest.mark.parametrize("opcode", CONVERSIONS)
def test_conversions(opcode: str, row: int, exec_name: str) -> None:
    source, target, reference = CONVERSIONS[opcode]
    wave = fresh(EXECS[exec_name])
    if source is F32:
        put(wave, row, values(3))
    inputs = get(wave, row, source)
    before = wave.v[row].copy()
    execute(wave, f"{opcode} v{row}, v{row}")
    expected = lanewise(
        reference, target, inputs.tolist() if source is not F32 else inputs.astype(np.float64)
    )
    np.testing.assert_array_equal(wave.v[row], np.where(active(EXECS[exec_name]), bits(expected), before))


def test_half_conversions_round_to_even_and_clear_the_high_half() -> None:
    wave = fresh()
    a = values(8)
    put(wave, 1, a)
    execute(wave, "v_cvt_f16_f32_e32 v2, v1", "v_cvt_f32_f16_e32 v3, v2")
    expected = [round_fraction(Fraction(float(v)), F16) if math.isfinite(v) and v else F16(v) for v in a]
    np.testing.assert_array_equal(low_half(wave.v[2]), expected)
    assert not (wave.v[2] >> 16).any()
    np.testing.assert_array_equal(get(wave, 3, F32), np.array(expected).astype(F32))


def test_cvt_pkrtz_truncates() -> None:
    wave = fresh()
    put(wave, 1, np.array([1.0009, -1.0009, 65519.0, 1e9, 6e-8, 0.1, np.inf, -7e4] * 8, F32))
    put(wave, 2, np.full(64, 3.0, F32))
    execute(wave, "v_cvt_pkrtz_f16_f32 v3, v1, v2")
    got = low_half(wave.v[3]).astype(float)[:8]
    assert got.tolist() == [1.0, -1.0, 65504, 65504, 2**-24, 0.0999755859375, np.inf, -65504]
    assert low_half(wave.v[3] >> 16)[0] == 3.0


@pytest.mark.parametrize("exponent", [-160, -126, -3, 0, 5, 127, 300])
def test_ldexp(exponent: int) -> None:
    wave = fresh()
    a = values(11)
    put(wave, 1, a)
    put(wave, 2, np.full(64, exponent, np.int32))
    execute(wave, "v_ldexp_f32 v3, v1, v2")
    with np.errstate(all="ignore"):
        expected = [
            round_fraction(Fraction(float(v)) * Fraction(2) ** exponent, F32) if math.isfinite(v) and v else v
            for v in a
        ]
    np.testing.assert_array_equal(get(wave, 3, F32), np.array(expected, F32))


def test_frexp_and_fract() -> None:
    wave = fresh()
    a = np.array([8.0, -0.75, 3.5, 1e-40] * 16, F32)
    put(wave, 1, a)
    execute(wave, "v_frexp_mant_f32_e32 v2, v1", "v_frexp_exp_i32_f32_e32 v3, v1", "v_fract_f32_e32 v4, v1")
    parts = [math.frexp(v) for v in a.tolist()]
    np.testing.assert_array_equal(get(wave, 2, F32), np.array([p[0] for p in parts], F32))
    np.testing.assert_array_equal(get(wave, 3, np.int32), [p[1] for p in parts])
    np.testing.assert_array_equal(get(wave, 4, F32)[:3], [0.0, 0.25, 0.5])


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The sequence that LLVM emits for a float32 division."""
    wave = fresh()
    put(wave, 0, numerator)
    put(wave, 1, denominator)
    execute(
        wave,
        "v_div_scale_f32 v2, s[10:11], v1, v1, v0",
        "v_div_scale_f32 v3, vcc, v0, v1, v0",
        "v_rcp_f32_e32 v4, v2",
        "v_fma_f32 v5, -v2, v4, 1.0",
        "v_fmac_f32_e32 v4, v5, v4",
        "v_mul_f32_e32 v5, v3, v4",
        "v_fma_f32 v6, -v2, v5, v3",
        "v_fmac_f32_e32 v5, v6, v4",
        "v_fma_f32 v2, -v2, v5, v3",
        "v_div_fmas_f32 v2, v2, v4, v5",
        "v_div_fixup_f32 v2, v2, v1, v0",
    )
    return get(wave, 2, F32)


def test_division_sequence_is_correctly_rounded() -> None:
    rng = np.random.default_rng(4)
    for spread in (2, 60, 120):
        n = (rng.standard_normal(64) * 2.0 ** rng.integers(-spread, spread, 64)).astype(F32)
        d = (rng.standard_normal(64) * 2.0 ** rng.integers(-spread, spread, 64)).astype(F32)
        with np.errstate(all="ignore"):
            expected = (n.astype(np.float64) / d).astype(F32)
        normal = (
            np.isfinite(expected)
            & (np.abs(expected) >= 2.0**-126)
            & (np.abs(d) >= 2.0**-126)
            & (np.abs(n) > 2**-100)
        )
        np.testing.assert_array_equal(divide(n, d)[normal], expected[normal])
        assert normal.sum() > 20


def test_division_of_special_values() -> None:
    n = np.array([1, -1, 0, 0, np.inf, np.nan, 1, np.inf] * 8, F32)
    d = np.array([0, 0, 5, 0, np.inf, 2, -np.inf, -2] * 8, F32)
    with np.errstate(all="ignore"):
        expected = n / d
    got = divide(n, d)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got)[~np.isnan(got)], np.signbit(expected)[~np.isnan(expected)])


def test_div_scale_flags_lanes_in_vcc_and_fmas_unscales() -> None:
    wave = fresh()
    put(wave, 0, np.array([2.0**100, 1.0] * 32, F32))
    put(wave, 1, np.array([2.0**-10, 3.0] * 32, F32))
    execute(wave, "v_div_scale_f32 v3, vcc, v1, v1, v0")
    assert wave.get64(VCC) == 0x5555_5555_5555_5555
    assert get(wave, 3, F32)[:2].tolist() == [2.0**54, 3.0]


def test_legacy_multiply_ignores_infinity_times_zero() -> None:
    wave = fresh()
    put(wave, 1, np.full(64, np.inf, F32))
    execute(wave, "v_mul_legacy_f32 v2, v1, 0")
    assert get(wave, 2, F32)[0] == 0


def test_double_precision() -> None:
    wave = fresh()
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal(64), rng.standard_normal(64)
    c = -a * b  # cancels all but the rounding error of the product, which a single rounding keeps
    for row, column in ((2, a), (4, b), (6, c)):
        put(wave, row, column, 2)
    execute(
        wave,
        "v_fma_f64 v[8:9], v[2:3], v[4:5], v[6:7]",
        "v_fmac_f64_e32 v[6:7], v[2:3], v[4:5]",
        "v_add_f64 v[10:11], v[2:3], 1.0",
        "v_cvt_f32_f64_e32 v12, v[10:11]",
    )
    exact = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c, strict=True)]
    assert any(exact)
    np.testing.assert_array_equal(get(wave, 8, np.float64, 2), exact)
    np.testing.assert_array_equal(get(wave, 6, np.float64, 2), exact)
    np.testing.assert_array_equal(get(wave, 12, F32), (a + 1).astype(F32))


@pytest.mark.parametrize("text", ["v_add_f32_e64 v0, v1, v2 mul:2", "v_rcp_f64_e32 v[0:1], v[2:3]"])
def test_not_emulated(text: str) -> None:
    with pytest.raises(NotEmulated):
        execute(fresh(), text)
