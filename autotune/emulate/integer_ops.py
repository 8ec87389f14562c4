"""Integer vector operations: bitwise, shifts, arithmetic, bit fields, dot products, moves.

Shift amounts use the low bits of the amount only, arithmetic wraps. `*rev` opcodes take the shift amount
first. CDNA3 ISA guide, "VOP1 / VOP2 / VOP3A instructions".
"""

from __future__ import annotations

import numpy as np

from autotune.emulate.registers import U32, Array, splat
from autotune.emulate.vector import Function, Valu

U, I = ("u32",), ("i32",)  # noqa: E741
_UU, _II = U * 2, I * 2
_UUU, _III = U * 3, I * 3
_ONE = splat(1)[U32]
_24 = splat(0xFF_FFFF)[U32]


def _i24(a: Array) -> Array:
    """Low 24 bits, sign-extended, as int64."""
    return (a << 8 >> 8).astype(np.int64)


def _u24(a: Array) -> Array:
    return (a & _24).astype(np.uint64)


def _low32(a: Array) -> Array:
    return a.astype(np.uint32)


def reverse_bits(a: Array) -> Array:
    """uint32[64] with bit 31 and bit 0 exchanged, and so on."""
    flipped: Array = np.packbits(np.unpackbits(a.view(np.uint8), bitorder="big"), bitorder="little").view(
        np.uint32
    )
    return flipped.byteswap()


def count_bits(a: Array) -> Array:
    """Number of set bits; uint32[64]."""
    ones: Array = np.unpackbits(a.view(np.uint8)).reshape(64, 32).sum(1, dtype=np.uint32)
    return ones


def leading_zeros(a: Array) -> Array:
    """Position of the first one from the top, 0xffffffff for 0; uint32[64]."""
    exponent = np.frexp(a.astype(np.float64))[1]
    return np.where(a == 0, -1, 32 - exponent).astype(np.int32).view(np.uint32)


def _trailing_zeros(a: Array) -> Array:
    lowest = a & (~a + np.uint32(1))
    return np.where(a == 0, -1, np.frexp(lowest.astype(np.float64))[1] - 1).astype(np.int32).view(np.uint32)


def _leading_signs(a: Array) -> Array:
    magnitude = np.where(a < 0, ~a, a).view(np.uint32)
    return leading_zeros(magnitude)


def _bfe_u(a: Array, offset: Array, width: Array) -> Array:
    return a >> offset & (_ONE << width) - _ONE


def _bfe_i(a: Array, offset: Array, width: Array) -> Array:
    field = (a.view(np.uint32) >> offset).view(np.int32)
    up = 32 - width.view(np.int32)
    # A width of 0 shifts by 32, which numpy leaves undefined.
    return np.where(width == 0, 0, field << (up & 31) >> (up & 31))


def _bfm(a: Array, b: Array) -> Array:
    return ((_ONE << a) - _ONE) << b


def _align(a: Array, b: Array, shift: Array) -> Array:
    pair = a.astype(np.uint64) << np.uint64(32) | b
    return (pair >> shift.astype(np.uint64)).astype(np.uint32)


def permute_bytes(a: Array, b: Array, selector: Array) -> Array:
    """V_PERM_B32: byte i of the result is byte sel[i] of {a, b}; 8..11 are signs, 12 zero, above 0xff."""
    data = np.concatenate([b.view(np.uint8).reshape(64, 4), a.view(np.uint8).reshape(64, 4)], axis=1)
    signs = np.where(data[:, 1::2] & 0x80, np.uint8(0xFF), np.uint8(0))
    rest = np.zeros((64, 4), np.uint8)
    rest[:, 1:] = 0xFF
    table = np.concatenate([data, signs, rest], axis=1)
    index = np.minimum(selector.view(np.uint8).reshape(64, 4), 13)
    return np.take_along_axis(table, index.astype(np.int64), axis=1).reshape(-1).view(np.uint32)


def dot(bits: int, signed: bool) -> Function:
    """Integer dot product of packed fields plus an addend, wrapping: int64 arithmetic to uint32[64]."""
    count = 32 // bits

    def fields(a: Array) -> Array:
        shifts = np.arange(count, dtype=np.uint32)[:, None] * np.uint32(bits)
        values = (a.view(np.uint32)[None, :] >> shifts & np.uint32((1 << bits) - 1)).astype(np.int64)
        return np.where(values >> (bits - 1) & 1, values - (1 << bits), values) if signed else values

    def run(a: Array, b: Array, c: Array) -> Array:
        total: Array = (fields(a) * fields(b)).sum(0) + c.view(np.int32)
        return total.astype(np.uint32)

    return run


def _sad_u8(a: Array, b: Array, c: Array) -> Array:
    x, y = (v.view(np.uint8).reshape(64, 4).astype(np.int64) for v in (a, b))
    total: Array = np.abs(x - y).sum(1) + c
    return total.astype(np.uint32)


def _pack_saturated(low: int, high: int) -> Function:
    def run(a: Array, b: Array) -> Array:
        x, y = (np.clip(v.astype(np.int64), low, high) & 0xFFFF for v in (a, b))
        return (x | y << 16).astype(np.uint32)

    return run


def _median(a: Array, b: Array, c: Array) -> Array:
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def _add(a: Array, b: Array) -> Array:
    return a + b


def _sub(a: Array, b: Array) -> Array:
    return a - b


def _subrev(a: Array, b: Array) -> Array:
    return b - a


def _mad(a: Array, b: Array, c: Array) -> Array:
    return a * b + c


def _select(a: Array, b: Array, take: Array) -> Array:
    return np.where(take, b, a)


MOVES = {
    "v_mov_b32": Valu("u32", U, lambda a: a),
    "v_mov_b64": Valu("u64", ("u64",), lambda a: a),
    "v_accvgpr_read_b32": Valu("u32", U, lambda a: a),
    "v_accvgpr_write_b32": Valu("u32", U, lambda a: a),
    "v_accvgpr_mov_b32": Valu("u32", U, lambda a: a),
    "v_cndmask_b32": Valu("u32", ("b32", "b32", "lanes"), _select),
}

INTEGER = MOVES | {
    "v_not_b32": Valu("u32", U, lambda a: ~a),
    "v_and_b32": Valu("u32", _UU, lambda a, b: a & b),
    "v_or_b32": Valu("u32", _UU, lambda a, b: a | b),
    "v_xor_b32": Valu("u32", _UU, lambda a, b: a ^ b),
    "v_xnor_b32": Valu("u32", _UU, lambda a, b: ~(a ^ b)),
    "v_or3_b32": Valu("u32", _UUU, lambda a, b, c: a | b | c),
    "v_and_or_b32": Valu("u32", _UUU, lambda a, b, c: a & b | c),
    "v_bfi_b32": Valu("u32", _UUU, lambda a, b, c: a & b | ~a & c),
    "v_xad_u32": Valu("u32", _UUU, lambda a, b, c: (a ^ b) + c),
    "v_lshlrev_b32": Valu("u32", _UU, lambda a, b: b << a, amounts=((0, 31),)),
    "v_lshrrev_b32": Valu("u32", _UU, lambda a, b: b >> a, amounts=((0, 31),)),
    "v_ashrrev_i32": Valu("i32", _II, lambda a, b: b >> a, amounts=((0, 31),)),
    "v_lshl_or_b32": Valu("u32", _UUU, lambda a, b, c: a << b | c, amounts=((1, 31),)),
    "v_lshl_add_u32": Valu("u32", _UUU, lambda a, b, c: (a << b) + c, amounts=((1, 31),)),
    "v_add_lshl_u32": Valu("u32", _UUU, lambda a, b, c: (a + b) << c, amounts=((2, 31),)),
    "v_lshlrev_b64": Valu("u64", ("u32", "u64"), lambda a, b: b << a.astype(np.uint64), amounts=((0, 63),)),
    "v_lshrrev_b64": Valu("u64", ("u32", "u64"), lambda a, b: b >> a.astype(np.uint64), amounts=((0, 63),)),
    "v_ashrrev_i64": Valu("i64", ("u32", "i64"), lambda a, b: b >> a.astype(np.int64), amounts=((0, 63),)),
    "v_lshl_add_u64": Valu(
        "u64", ("u64", "u32", "u64"), lambda a, b, c: (a << b.astype(np.uint64)) + c, amounts=((1, 7),)
    ),
    "v_alignbit_b32": Valu("u32", _UUU, lambda a, b, c: _align(a, b, c), amounts=((2, 31),)),
    "v_alignbyte_b32": Valu("u32", _UUU, lambda a, b, c: _align(a, b, c * splat(8)[U32]), amounts=((2, 3),)),
    "v_perm_b32": Valu("u32", _UUU, permute_bytes),
    "v_bfe_u32": Valu("u32", _UUU, _bfe_u, amounts=((1, 31), (2, 31))),
    "v_bfe_i32": Valu("i32", ("i32", "u32", "u32"), _bfe_i, amounts=((1, 31), (2, 31))),
    "v_bfm_b32": Valu("u32", _UU, _bfm, amounts=((0, 31), (1, 31))),
    "v_bfrev_b32": Valu("u32", U, reverse_bits),
    "v_bcnt_u32_b32": Valu("u32", _UU, lambda a, b: count_bits(a) + b),
    "v_ffbh_u32": Valu("u32", U, leading_zeros),
    "v_ffbh_i32": Valu("u32", I, _leading_signs),
    "v_ffbl_b32": Valu("u32", U, _trailing_zeros),
    "v_add_u32": Valu("u32", _UU, _add, saturating=_add),
    "v_sub_u32": Valu("u32", _UU, _sub, saturating=_sub),
    "v_subrev_u32": Valu("u32", _UU, _subrev, saturating=_subrev),
    "v_add_i32": Valu("i32", _II, _add, saturating=_add),
    "v_sub_i32": Valu("i32", _II, _sub, saturating=_sub),
    "v_add3_u32": Valu("u32", _UUU, lambda a, b, c: a + b + c),
    "v_mul_lo_u32": Valu("u32", _UU, lambda a, b: a * b),
    "v_mul_hi_u32": Valu(
        "u32", _UU, lambda a, b: (a.astype(np.uint64) * b >> np.uint64(32)).astype(np.uint32)
    ),
    "v_mul_hi_i32": Valu("i32", _II, lambda a, b: (a.astype(np.int64) * b >> 32).astype(np.int32)),
    "v_mul_u32_u24": Valu("u32", _UU, lambda a, b: _low32(_u24(a) * _u24(b))),
    "v_mul_hi_u32_u24": Valu("u32", _UU, lambda a, b: _low32(_u24(a) * _u24(b) >> np.uint64(32))),
    "v_mul_i32_i24": Valu("u32", _II, lambda a, b: _low32(_i24(a) * _i24(b))),
    "v_mul_hi_i32_i24": Valu("u32", _II, lambda a, b: _low32(_i24(a) * _i24(b) >> 32)),
    "v_mad_u32_u24": Valu("u32", _UUU, lambda a, b, c: _low32(_u24(a) * _u24(b)) + c),
    "v_mad_i32_i24": Valu("u32", ("i32", "i32", "u32"), lambda a, b, c: _low32(_i24(a) * _i24(b)) + c),
    "v_mad_u32_u16": Valu("u32", ("u16", "u16", "u32"), lambda a, b, c: a.astype(np.uint32) * b + c),
    "v_mad_i32_i16": Valu("i32", ("i16", "i16", "i32"), lambda a, b, c: a.astype(np.int32) * b + c),
    "v_min_u32": Valu("u32", _UU, np.minimum),
    "v_max_u32": Valu("u32", _UU, np.maximum),
    "v_min_i32": Valu("i32", _II, np.minimum),
    "v_max_i32": Valu("i32", _II, np.maximum),
    "v_min3_u32": Valu("u32", _UUU, lambda a, b, c: np.minimum(np.minimum(a, b), c)),
    "v_max3_u32": Valu("u32", _UUU, lambda a, b, c: np.maximum(np.maximum(a, b), c)),
    "v_med3_u32": Valu("u32", _UUU, _median),
    "v_min3_i32": Valu("i32", _III, lambda a, b, c: np.minimum(np.minimum(a, b), c)),
    "v_max3_i32": Valu("i32", _III, lambda a, b, c: np.maximum(np.maximum(a, b), c)),
    "v_med3_i32": Valu("i32", _III, _median),
    "v_sad_u8": Valu("u32", _UUU, _sad_u8),
    "v_sad_u32": Valu("u32", _UUU, lambda a, b, c: np.maximum(a, b) - np.minimum(a, b) + c),
    "v_cvt_pk_u16_u32": Valu("u32", _UU, _pack_saturated(0, 0xFFFF)),
    "v_cvt_pk_i16_i32": Valu("u32", _II, _pack_saturated(-0x8000, 0x7FFF)),
    "v_dot2_i32_i16": Valu("u32", _UUU, dot(16, True)),
    "v_dot2_u32_u16": Valu("u32", _UUU, dot(16, False)),
    "v_dot4_i32_i8": Valu("u32", _UUU, dot(8, True)),
    "v_dot4_u32_u8": Valu("u32", _UUU, dot(8, False)),
    "v_dot8_i32_i4": Valu("u32", _UUU, dot(4, True)),
    "v_dot8_u32_u4": Valu("u32", _UUU, dot(4, False)),
    "v_dot2c_i32_i16": Valu("u32", _UU, dot(16, True), accumulates=True),
    "v_dot4c_i32_i8": Valu("u32", _UU, dot(8, True), accumulates=True),
    "v_dot8c_i32_i4": Valu("u32", _UU, dot(4, True), accumulates=True),
}

_HU, _HI = ("u16",) * 2, ("i16",) * 2

INTEGER16 = {
    "v_add_u16": Valu("u16", _HU, _add, saturating=_add),
    "v_sub_u16": Valu("u16", _HU, _sub, saturating=_sub),
    "v_subrev_u16": Valu("u16", _HU, _subrev, saturating=_subrev),
    "v_add_i16": Valu("i16", _HI, _add, saturating=_add, keeps_half=True),
    "v_sub_i16": Valu("i16", _HI, _sub, saturating=_sub, keeps_half=True),
    "v_mul_lo_u16": Valu("u16", _HU, lambda a, b: a * b),
    "v_lshlrev_b16": Valu("u16", _HU, lambda a, b: b << a, amounts=((0, 15),)),
    "v_lshrrev_b16": Valu("u16", _HU, lambda a, b: b >> a, amounts=((0, 15),)),
    "v_ashrrev_i16": Valu("i16", _HI, lambda a, b: b >> a, amounts=((0, 15),)),
    "v_min_u16": Valu("u16", _HU, np.minimum),
    "v_max_u16": Valu("u16", _HU, np.maximum),
    "v_min_i16": Valu("i16", _HI, np.minimum),
    "v_max_i16": Valu("i16", _HI, np.maximum),
    "v_mad_u16": Valu("u16", ("u16",) * 3, _mad, saturating=_mad, keeps_half=True),
    "v_mad_i16": Valu("i16", ("i16",) * 3, _mad, saturating=_mad, keeps_half=True),
    "v_mad_legacy_u16": Valu("u16", ("u16",) * 3, _mad),
    "v_mad_legacy_i16": Valu("i16", ("i16",) * 3, _mad),
    "v_min3_u16": Valu("u16", ("u16",) * 3, lambda a, b, c: np.minimum(np.minimum(a, b), c), keeps_half=True),
    "v_max3_u16": Valu("u16", ("u16",) * 3, lambda a, b, c: np.maximum(np.maximum(a, b), c), keeps_half=True),
    "v_med3_u16": Valu("u16", ("u16",) * 3, _median, keeps_half=True),
    "v_min3_i16": Valu("i16", ("i16",) * 3, lambda a, b, c: np.minimum(np.minimum(a, b), c), keeps_half=True),
    "v_max3_i16": Valu("i16", ("i16",) * 3, lambda a, b, c: np.maximum(np.maximum(a, b), c), keeps_half=True),
    "v_med3_i16": Valu("i16", ("i16",) * 3, _median, keeps_half=True),
}
