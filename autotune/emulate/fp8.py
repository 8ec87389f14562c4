"""The 8-bit floats of gfx942, which are FNUZ: no infinity, no negative zero, 0x80 is the only NaN.

"fp8" is E4M3 with bias 8 (largest 240), "bf8" is E5M2 with bias 16 (largest 57344). CDNA3 ISA guide, "Data
types"; these are not the OCP formats of later generations.
"""

from __future__ import annotations

import numpy as np

from autotune.emulate.registers import Array


def _table(mantissa_bits: int, bias: int) -> Array:
    codes = np.arange(256)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    exponent = codes >> mantissa_bits & ((1 << (7 - mantissa_bits)) - 1)
    fraction = mantissa / (1 << mantissa_bits) + (exponent > 0)
    values = np.ldexp(fraction, np.maximum(exponent, 1) - bias)
    values = np.where(codes & 0x80, -values, values)
    values[0x80] = np.nan
    return np.asarray(values, np.float32)


FP8_VALUES = _table(3, 8)
BF8_VALUES = _table(2, 16)
TABLES = {"fp8": FP8_VALUES, "bf8": BF8_VALUES}


def decode(codes: Array, kind: str) -> Array:
    """uint8 codes to float32, same shape; `kind` is "fp8" or "bf8"."""
    return TABLES[kind][codes]


def encode(values: Array, kind: str, saturate: bool = False) -> Array:
    """float32[n] to uint8[n], nearest even.

    NaN becomes 0x80. What rounds past the largest value, infinity too, becomes 0x80 as well, or the largest
    value if `saturate` (MODE.FP16_OVFL).
    """
    positive = TABLES[kind][:128].astype(np.float64)
    magnitude = np.abs(values.astype(np.float64))
    upper = np.clip(np.searchsorted(positive, magnitude), 1, 127)
    below, above = positive[upper - 1], positive[upper]
    middle = (below + above) / 2
    # The even code of the two is the one with a zero last mantissa bit.
    take_upper = (magnitude > middle) | ((magnitude == middle) & (upper & 1 == 0))
    code = np.where(take_upper, upper, upper - 1)
    limit = positive[127] + (positive[127] - positive[126]) / 2
    # The code after the largest would be even, so the tie itself already overflows.
    overflow = np.isnan(values) if saturate else ~(magnitude < limit)
    code = np.where(magnitude >= limit, 127, code)
    negative = np.signbit(values) & (code > 0)
    return np.where(overflow, 0x80, code | np.where(negative, 0x80, 0)).astype(np.uint8)
