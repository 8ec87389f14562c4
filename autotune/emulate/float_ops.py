"""Floating-point vector operations and conversions.

The functions themselves are in `floats` and `fp8`. CDNA3 ISA guide, "VOP1 / VOP2 / VOP3A instructions".
"""

from __future__ import annotations

import numpy as np

from autotune.emulate import fp8
from autotune.emulate.floats import (  # fmt: skip
    div_fixup,
    f16_towards_zero,
    fma16,
    fma32,
    fma64,
    frexp_exponent,
    frexp_mantissa,
    ldexp,
    maximum,
    median,
    minimum,
    to_int,
    transcendental16,
    transcendental32,
)
from autotune.emulate.registers import Array
from autotune.emulate.vector import Function, Valu

F, H = ("f32",), ("f16",)
_FF, _HH = F * 2, H * 2
_I32, _U32 = (-(1 << 31), (1 << 31) - 1), (0, (1 << 32) - 1)

_TRANSCENDENTAL: dict[str, Function] = {
    "exp": np.exp2,
    "log": np.log2,
    "rcp": lambda a: 1.0 / a,
    "rsq": lambda a: 1.0 / np.sqrt(a),
    "sqrt": np.sqrt,
    # The argument is in revolutions.
    "sin": lambda a: np.sin(2 * np.pi * (a - np.floor(a))),
    "cos": lambda a: np.cos(2 * np.pi * (a - np.floor(a))),
}
_ROUNDING: dict[str, Function] = {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rndne": np.rint}


def _fract(a: Array) -> Array:
    below_one = np.nextafter(a.dtype.type(1), a.dtype.type(0))
    fraction: Array = np.minimum(a - np.floor(a), below_one)
    return fraction


def _arithmetic(kind: str, fma: Function) -> dict[str, Valu]:
    """Operations that exist for float32 and for float16 alike."""
    unary, binary, ternary = (kind,), (kind,) * 2, (kind,) * 3
    wide = transcendental32 if kind == "f32" else transcendental16
    operations = {
        "add": Valu(kind, binary, lambda a, b: a + b),
        "sub": Valu(kind, binary, lambda a, b: a - b),
        "subrev": Valu(kind, binary, lambda a, b: b - a),
        "mul": Valu(kind, binary, lambda a, b: a * b),
        "max": Valu(kind, binary, maximum),
        "min": Valu(kind, binary, minimum),
        "fma": Valu(kind, ternary, fma, keeps_half=kind == "f16"),
        "max3": Valu(kind, ternary, lambda a, b, c: maximum(maximum(a, b), c), keeps_half=kind == "f16"),
        "min3": Valu(kind, ternary, lambda a, b, c: minimum(minimum(a, b), c), keeps_half=kind == "f16"),
        "med3": Valu(kind, ternary, median, keeps_half=kind == "f16"),
        "ldexp": Valu(kind, (kind, "i32" if kind == "f32" else "i16"), ldexp),
        "fract": Valu(kind, unary, _fract),
        "frexp_mant": Valu(kind, unary, frexp_mantissa),
        **{name: Valu(kind, unary, wide(function)) for name, function in _TRANSCENDENTAL.items()},
        **{name: Valu(kind, unary, function) for name, function in _ROUNDING.items()},
    }
    return {f"v_{name}_{kind}": operation for name, operation in operations.items()}


def _dot2(a: Array, b: Array, c: Array) -> Array:
    """Two float16 products added to a float32: exact products, one rounding at the end."""
    x, y = (v.view(np.float16).reshape(64, 2).astype(np.float64) for v in (a, b))
    total: Array = (x * y).sum(1) + c.view(np.float32)
    return total.astype(np.float32)


def _pack16(low: Array, high: Array) -> Array:
    """Two 16-bit arrays into uint32[64]."""
    return low.view(np.uint16) | high.view(np.uint16).astype(np.uint32) << np.uint32(16)


def _cvt_pk_u8(value: Array, position: Array, old: Array) -> Array:
    shift = (position & np.uint32(3)) * np.uint32(8)
    byte = to_int(np.rint(value), 0, 255).astype(np.uint32)
    merged: Array = old & ~(np.uint32(0xFF) << shift) | byte << shift
    return merged


def _byte_to_float(position: int) -> Function:
    return lambda a: (a >> np.uint32(8 * position) & np.uint32(0xFF)).astype(np.float32)


def _from_fp8(kind: str) -> Function:
    return lambda a: fp8.decode((a & np.uint32(0xFF)).astype(np.uint8), kind)


def _pair_from_fp8(kind: str) -> Function:
    def run(a: Array) -> Array:
        codes = a.view(np.uint8).reshape(64, 4)[:, :2]
        return np.ascontiguousarray(fp8.decode(codes, kind)).view(np.uint64)[:, 0]

    return run


CONVERSIONS = {
    "v_cvt_f32_i32": Valu("f32", ("i32",), lambda a: a.astype(np.float32)),
    "v_cvt_f32_u32": Valu("f32", ("u32",), lambda a: a.astype(np.float32)),
    "v_cvt_i32_f32": Valu("i32", F, lambda a: to_int(a, *_I32).astype(np.int32)),
    "v_cvt_u32_f32": Valu("u32", F, lambda a: to_int(a, *_U32).astype(np.uint32)),
    "v_cvt_rpi_i32_f32": Valu(
        "i32", F, lambda a: to_int(np.floor(a.astype(np.float64) + 0.5), *_I32).astype(np.int32)
    ),
    "v_cvt_flr_i32_f32": Valu("i32", F, lambda a: to_int(np.floor(a), *_I32).astype(np.int32)),
    "v_cvt_f16_f32": Valu("f16", F, lambda a: a.astype(np.float16)),
    "v_cvt_f32_f16": Valu("f32", H, lambda a: a.astype(np.float32)),
    "v_cvt_f16_i16": Valu("f16", ("i16",), lambda a: a.astype(np.float16)),
    "v_cvt_f16_u16": Valu("f16", ("u16",), lambda a: a.astype(np.float16)),
    "v_cvt_i16_f16": Valu("i16", H, lambda a: to_int(a, -0x8000, 0x7FFF).astype(np.int16)),
    "v_cvt_u16_f16": Valu("u16", H, lambda a: to_int(a, 0, 0xFFFF).astype(np.uint16)),
    "v_cvt_f64_f32": Valu("f64", F, lambda a: a.astype(np.float64)),
    "v_cvt_f32_f64": Valu("f32", ("f64",), lambda a: a.astype(np.float32)),
    "v_cvt_f64_i32": Valu("f64", ("i32",), lambda a: a.astype(np.float64)),
    "v_cvt_f64_u32": Valu("f64", ("u32",), lambda a: a.astype(np.float64)),
    "v_cvt_i32_f64": Valu("i32", ("f64",), lambda a: to_int(a, *_I32).astype(np.int32)),
    "v_cvt_u32_f64": Valu("u32", ("f64",), lambda a: to_int(a, *_U32).astype(np.uint32)),
    # A signed 4-bit integer in sixteenths.
    "v_cvt_off_f32_i4": Valu(
        "f32", ("u32",), lambda a: ((a << np.uint32(28)).view(np.int32) >> 28).astype(np.float32) / 16
    ),
    "v_cvt_pkrtz_f16_f32": Valu("u32", _FF, lambda a, b: _pack16(f16_towards_zero(a), f16_towards_zero(b))),
    "v_pack_b32_f16": Valu("u32", _HH, _pack16),
    "v_cvt_pk_u8_f32": Valu("u32", ("f32", "u32", "u32"), _cvt_pk_u8),
    **{f"v_cvt_f32_ubyte{i}": Valu("f32", ("u32",), _byte_to_float(i)) for i in range(4)},
    **{f"v_cvt_f32_{kind}": Valu("f32", ("u32",), _from_fp8(kind)) for kind in fp8.TABLES},
    **{f"v_cvt_pk_f32_{kind}": Valu("u64", ("u32",), _pair_from_fp8(kind)) for kind in fp8.TABLES},
}

FLOAT = (
    _arithmetic("f32", fma32)
    | _arithmetic("f16", fma16)
    | CONVERSIONS
    | {
        "v_fmac_f32": Valu("f32", _FF, fma32, accumulates=True),
        "v_fmamk_f32": Valu("f32", F * 3, fma32),
        "v_fmaak_f32": Valu("f32", F * 3, fma32),
        "v_rcp_iflag_f32": Valu("f32", F, transcendental32(_TRANSCENDENTAL["rcp"])),
        "v_frexp_exp_i32_f32": Valu("i32", F, frexp_exponent),
        "v_frexp_exp_i16_f16": Valu("i16", H, lambda a: frexp_exponent(a).astype(np.int16)),
        "v_mul_legacy_f32": Valu(
            "f32", _FF, lambda a, b: np.where((a == 0) | (b == 0), np.float32(0), a * b)
        ),
        "v_div_fixup_f32": Valu("f32", F * 3, div_fixup),
        "v_dot2_f32_f16": Valu("f32", ("u32", "u32", "f32"), _dot2),
        "v_dot2c_f32_f16": Valu("f32", ("u32", "u32"), _dot2, accumulates=True),
        "v_fma_f64": Valu("f64", ("f64",) * 3, fma64),
        "v_fmac_f64": Valu("f64", ("f64",) * 2, fma64, accumulates=True),
        "v_add_f64": Valu("f64", ("f64",) * 2, lambda a, b: a + b),
        "v_mul_f64": Valu("f64", ("f64",) * 2, lambda a, b: a * b),
        "v_max_f64": Valu("f64", ("f64",) * 2, maximum),
        "v_min_f64": Valu("f64", ("f64",) * 2, minimum),
    }
)
