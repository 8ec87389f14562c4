"""Floating-point functions on `[64]` arrays, bit for bit where the ISA defines the bits.

Add, subtract and multiply are IEEE with denormals, round to nearest even (the only MODE that is emulated).
The transcendental functions are 1 ulp approximations on hardware and flush denormals; here they are correctly
rounded, with the flush. CDNA3 ISA guide, "Vector ALU instructions" and the pseudocode of the instruction
chapters.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf, isfinite

import numpy as np

from autotune.emulate.registers import Array

_TINY32 = np.float32(2.0**-126)
_MAX16 = np.float16(65504)


def _odd_sum(product: Array, addend: Array) -> Array:
    """product + addend in float64, rounded to odd: a further rounding to float32 or float16 is then exact."""
    total = product + addend
    # Knuth's two-sum gives the error of that addition exactly.
    shadow = total - product
    error = (product - (total - shadow)) + (addend - shadow)
    bits = total.view(np.int64)
    inexact = (error != 0) & np.isfinite(total) & ((bits & 1) == 0)
    towards_zero = (error < 0) ^ (total < 0)
    # An even result with an error has an odd neighbour on the error's side.
    return np.where(inexact, np.where(towards_zero, bits - 1, bits + 1), bits).view(np.float64)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """a·b + c with one rounding; float32[64]."""
    # The product of two float32 is exact in float64, so only the sum rounds.
    product = a.astype(np.float64) * b
    total: Array = product + c
    result: Array = total.astype(np.float32)
    tie = (total.view(np.int64) & 0x1FFF_FFFF) == 0x1000_0000
    if tie.any() or (np.abs(total) < _TINY32).any():
        # Only a sum that looks like a tie, or a denormal one, can round twice; `_odd_sum` is slow.
        result = _odd_sum(product, c.astype(np.float64)).astype(np.float32)
    return result


def fma16(a: Array, b: Array, c: Array) -> Array:
    """a·b + c with one rounding; float16[64]."""
    product = a.astype(np.float64) * b
    result: Array = _odd_sum(product, c.astype(np.float64)).astype(np.float16)
    return result


def fma64(a: Array, b: Array, c: Array) -> Array:
    """a·b + c with one rounding; float64[64]. Rational arithmetic lane by lane: exact, and slow."""

    def one(x: float, y: float, z: float) -> float:
        if not (isfinite(x) and isfinite(y) and isfinite(z)):
            return x * y + z
        total = Fraction(x) * Fraction(y) + Fraction(z)
        if total == 0:
            return x * y + z  # for the sign of zero
        try:
            return float(total)
        except OverflowError:
            return inf if total > 0 else -inf

    return np.array([one(*lane) for lane in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)])


def _ordered(a: Array, b: Array, larger: bool) -> Array:
    pick: Array = (np.fmax if larger else np.fmin)(a, b)
    zero = (a == 0) & (b == 0)
    if zero.any():
        # +0 counts as larger than -0, which numpy leaves open.
        signs = np.signbit(a) & np.signbit(b) if larger else np.signbit(a) | np.signbit(b)
        pick = np.where(zero, np.where(signs, -0.0, 0.0).astype(a.dtype), pick)
    return pick


def maximum(a: Array, b: Array) -> Array:
    """IEEE maxNum: the other operand if one is NaN, +0 above -0."""
    return _ordered(a, b, True)


def minimum(a: Array, b: Array) -> Array:
    """IEEE minNum: the other operand if one is NaN, -0 below +0."""
    return _ordered(a, b, False)


def median(a: Array, b: Array, c: Array) -> Array:
    """Middle one of three; the smallest if one is NaN."""
    middle = maximum(minimum(a, b), minimum(maximum(a, b), c))
    return np.where(np.isnan(a) | np.isnan(b) | np.isnan(c), minimum(minimum(a, b), c), middle)


def clamp01(a: Array) -> Array:
    """The clamp modifier on a float result: to [0, 1], NaN to 0 (DX10_CLAMP is on in compute kernels)."""
    return np.where(np.isnan(a), 0, np.clip(a, 0, 1)).astype(a.dtype)


def _flush(a: Array) -> Array:
    return np.where(np.abs(a) < _TINY32, np.copysign(np.float32(0), a), a)


def transcendental32(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """float32[64] function computed in float64, rounded once, denormals flushed on both sides."""

    def run(a: Array) -> Array:
        return _flush(function(_flush(a).astype(np.float64)).astype(np.float32))

    return run


def transcendental16(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """float16[64] function computed in float64 and rounded once."""
    return lambda a: function(a.astype(np.float64)).astype(np.float16)


def to_int(a: Array, low: int, high: int) -> Array:
    """Float to integer: truncated, saturated to [low, high], NaN to 0; int64[64]."""
    wide = np.trunc(a.astype(np.float64))
    return np.where(np.isnan(wide), 0.0, np.clip(wide, low, high)).astype(np.int64)


def f16_towards_zero(a: Array) -> Array:
    """float32[64] to float16[64], rounded towards zero; finite values never become infinite."""
    nearest: Array = a.astype(np.float16)
    over = np.isinf(nearest) & np.isfinite(a)
    nearest = np.where(over, np.copysign(_MAX16, nearest), nearest)
    too_large = np.abs(nearest.astype(np.float32)) > np.abs(a)
    return (nearest.view(np.uint16) - too_large.astype(np.uint16)).view(np.float16)


def exponent32(a: Array) -> Array:
    """Biased exponent field of float32[64]; int64[64]."""
    return (a.view(np.uint32) >> 23 & 0xFF).astype(np.int64)


def ldexp(a: Array, exponent: Array) -> Array:
    """a · 2**exponent, rounded once; the exponent may be any int."""
    wide = np.ldexp(a.astype(np.float64), np.clip(exponent.astype(np.int64), -1000, 1000).astype(np.int32))
    return wide.astype(a.dtype)


def frexp_mantissa(a: Array) -> Array:
    """Mantissa in ±[0.5, 1); inf and NaN unchanged."""
    return np.where(np.isfinite(a), np.frexp(a)[0], a).astype(a.dtype)


def frexp_exponent(a: Array) -> Array:
    """Exponent that goes with `frexp_mantissa`; 0 for inf and NaN; int32[64]."""
    return np.where(np.isfinite(a), np.frexp(a)[1], 0).astype(np.int32)


def div_scale(scaled: Array, denominator: Array, numerator: Array) -> tuple[Array, Array]:
    """V_DIV_SCALE_F32: the operand scaled by 2**±64 where the quotient needs it, and the lanes to unscale.

    Args:
        scaled: src0, which is either the denominator or the numerator.
        denominator: src1.
        numerator: src2.

    Returns:
        float32[64] and bool[64] (for VCC).
    """
    wide = denominator.astype(np.float64)
    up, down = ldexp(scaled, np.full(64, 64)), ldexp(scaled, np.full(64, -64))
    is_denominator, is_numerator = scaled == denominator, scaled == numerator
    quotient = np.abs(numerator / denominator)
    tiny_quotient = (quotient < _TINY32) & (quotient > 0)
    # The guide asks whether 1/d is a denormal float64, which no float32 d gives; it means a float32.
    tiny_inverse = (np.abs(1.0 / wide) < float(_TINY32)) & np.isfinite(wide)
    conditions = [
        (numerator == 0) | (denominator == 0),
        exponent32(numerator) - exponent32(denominator) >= 96,
        (np.abs(denominator) < _TINY32),
        tiny_inverse & tiny_quotient,
        tiny_inverse,
        tiny_quotient,
        exponent32(numerator) <= 23,
    ]
    only_denominator = np.where(is_denominator, up, scaled)
    values = [
        np.full(64, np.nan, np.float32),
        only_denominator,
        up,
        only_denominator,
        down,
        np.where(is_numerator, up, scaled),
        up,
    ]
    flags = [np.full(64, flag) for flag in (False, True, False, True, False, True, False)]
    return np.select(conditions, values, scaled), np.select(conditions, flags, False)


def div_fmas(a: Array, b: Array, c: Array, unscale: Array) -> Array:
    """V_DIV_FMAS_F32: fma, then the scale of V_DIV_SCALE taken back in the lanes of VCC.

    The direction follows the approximate quotient `c`: a large one came from a denominator scaled up.
    """
    result = fma32(a, b, c)
    direction = np.where(exponent32(c) > 127, 64, -64)
    return np.where(unscale, ldexp(result, direction), result)


def div_fixup(quotient: Array, denominator: Array, numerator: Array) -> Array:
    """V_DIV_FIXUP_F32: the quotient's special cases and its sign."""
    d, n = denominator, numerator
    sign = np.signbit(d) ^ np.signbit(n)
    inf, zero = np.float32(np.inf), np.float32(0)
    conditions = [
        np.isnan(n),
        np.isnan(d),
        ((d == 0) & (n == 0)) | (np.isinf(d) & np.isinf(n)),
        (d == 0) | np.isinf(n),
        np.isinf(d) | (n == 0),
        exponent32(n) - exponent32(d) < -150,
    ]
    nan = np.full(64, 0xFFC00000, np.uint32).view(np.float32)
    magnitude = np.abs(quotient)
    signed = np.where(sign, -magnitude, magnitude)
    choices = [n, d, nan, np.where(sign, -inf, inf), np.where(sign, -zero, zero), np.where(sign, -zero, zero)]
    return np.select(conditions, choices, signed)


def classify(a: Array, wanted: Array) -> Array:
    """V_CMP_CLASS: bool[64], whether the class of `a` is among the bits of `wanted` (uint32[64])."""
    negative, magnitude = np.signbit(a), np.abs(a)
    quiet_bit = (a.view(np.uint32) >> 22 if a.dtype == np.float32 else a.view(np.uint16) >> 9) & 1
    tiny = _TINY32 if a.dtype == np.float32 else np.float16(2.0**-14)
    group = np.select([np.isinf(a), magnitude >= tiny, magnitude > 0], [0, 1, 2], 3)
    finite_class = np.where(negative, 2 + group, 9 - group)
    number = np.where(np.isnan(a), np.where(quiet_bit == 1, 1, 0), finite_class).astype(np.uint32)
    return (wanted >> number & 1).astype(np.bool_)
