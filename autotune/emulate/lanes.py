"""How vector instructions read their sources and write their results: types, modifiers, EXEC.

A source is a closure from a wave to one array of 64 values of its kind; a destination is a closure that
stores such an array in the active lanes. SDWA and DPP are in `encodings`. CDNA3 ISA guide,
"Vector ALU operations".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from autotune.emulate.decoded import plain
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import Imm, Operand, Reg
from autotune.emulate.registers import (  # fmt: skip
    F16,
    F32,
    I16,
    I32,
    LANES,
    U16,
    U32,
    Array,
    Wave,
    lane_mask,
    lanes,
    row_of,
    splat,
)
from autotune.emulate.scalar_operands import constant, getter, lane_source

Source = Callable[[Wave], Array]
Sink = Callable[[Wave, Array], None]

# Kinds of one register ("b32" is "u32" that takes neg and abs as a float does); those of two registers are
# "u64", "i64", "f64"; "lanes" is a mask in a scalar pair.
KINDS = {"u32": U32, "b32": U32, "i32": I32, "f32": F32, "u16": U16, "i16": I16, "f16": F16}
DTYPES = {
    "u32": np.uint32,
    "b32": np.uint32,
    "i32": np.int32,
    "u16": np.uint16,
    "i16": np.int16,
    "f16": np.float16,
}
WIDE = {"u64": np.uint64, "i64": np.int64, "f64": np.float64}
HIGH_HALF = 3  # from U16 to U16H


def is_float(kind: str) -> bool:
    """Whether neg, abs and clamp have their floating-point meaning."""
    return kind[0] == "f"


def is_half(kind: str) -> bool:
    """Whether the kind is 16 bits wide."""
    return kind.endswith("16")


def width(kind: str) -> int:
    """Number of registers of a kind."""
    return 2 if kind in WIDE else 1


def read_wide(wave: Wave, row: int) -> Array:
    """Two consecutive registers as uint64[64]."""
    pair: Array = np.ascontiguousarray(wave.v[row : row + 2].T).view(np.uint64)[:, 0]
    return pair


def write_wide(wave: Wave, row: int, value: Array) -> None:
    """uint64[64] (or a type of that size) into two consecutive registers, in the active lanes."""
    parts = np.ascontiguousarray(value).view(np.uint32).reshape(LANES, 2).T
    if wave.full:
        wave.v[row : row + 2] = parts
    else:
        np.copyto(wave.v[row : row + 2], parts, where=wave.mask)


# Closures hold no state of a wave, so equal operands of a program share one.
@lru_cache(maxsize=16384)
def source(operand: Operand, kind: str, half: int = 0) -> Source:
    """Closure that reads a vector source.

    Args:
        operand: register, constant or scalar, with its neg, abs.
        kind: "u32", "i32", "f32", "u16", "i16", "f16", "u64", "i64", "f64" or "lanes".
        half: 1 reads the high half for a 16-bit kind (op_sel).
    """
    if kind == "lanes":
        mask = lane_source(operand)
        return lambda wave: lanes(mask(wave))
    if operand.sext:
        raise NotEmulated("sext outside of SDWA")
    read = _base(operand, kind, half)
    return with_sign(read, operand, kind)


def with_sign(read: Source, operand: Operand, kind: str) -> Source:
    """A source of lanes with the operand's `abs` and `neg` applied, in this order.

    Raises:
        NotEmulated: the operand has one of them and is no number with a sign.
    """
    if not (operand.neg or operand.abs):
        return read
    if kind == "b32":
        clear = splat(0x7FFF_FFFF if operand.abs else 0xFFFF_FFFF)[U32]
        flip = splat(0x8000_0000 if operand.neg else 0)[U32]
        return lambda wave: read(wave) & clear ^ flip
    if not is_float(kind):
        raise NotEmulated(f"neg or abs on an operand of kind {kind}")
    if operand.neg and operand.abs:
        return lambda wave: np.negative(np.abs(read(wave)))
    if operand.abs:
        return lambda wave: np.abs(read(wave))
    return lambda wave: np.negative(read(wave))


def _base(operand: Operand, kind: str, half: int) -> Source:
    if kind in WIDE:
        return _wide_base(operand, kind)
    return viewed(operand, KINDS[kind] + (HIGH_HALF if half else 0))


def viewed(operand: Operand, index: int) -> Source:
    """Closure that reads one register, scalar or constant through view `index`."""
    base = operand.base
    if isinstance(base, Imm):
        # A float constant is as wide as the operand; an integer one is 32 bits, a part of which may be read.
        narrow = isinstance(base.value, float) and index >= U16
        fixed = splat(constant(base.value, 16 if narrow else 32))[index]
        return lambda wave: fixed
    if isinstance(base, Reg) and base.file == "s" and base.count == 1:
        number = base.index
        return lambda wave: splat(wave.get32(number))[index]
    if isinstance(base, Reg) and base.count == 1:
        row = row_of(base)
        return lambda wave: wave.rows[index][row]
    raise NotEmulated(f"operand {base} of a 32-bit or narrower source")


def _wide_base(operand: Operand, kind: str) -> Source:
    base = operand.base
    dtype = WIDE[kind]
    if isinstance(base, Reg) and base.file != "s":
        if base.count != 2:
            raise NotEmulated(f"operand {base} of kind {kind}")
        row = row_of(base)
        return lambda wave: read_wide(wave, row).view(dtype)
    if kind == "f64" and isinstance(base, Imm):
        fixed = np.full(LANES, float(base.value))
        return lambda wave: fixed
    # A scalar pair or an integer constant is the same in all lanes.
    value = getter(Operand(base), 64)
    return lambda wave: np.full(LANES, value(wave), np.uint64).view(dtype)


@lru_cache(maxsize=4096)
def sink(operand: Operand, kind: str) -> Sink:
    """Closure that stores a result of `kind`; a 16-bit result clears the high half (as on GFX9)."""
    base = plain(operand)
    if not isinstance(base, Reg) or base.count != width(kind):
        raise NotEmulated(f"destination {base} of kind {kind}")
    row = row_of(base)
    if kind in WIDE:
        return lambda wave, value: write_wide(wave, row, value)
    if is_half(kind):

        def put_half(wave: Wave, value: Array) -> None:
            bits = value.view(np.uint16)
            if wave.full:
                wave.rows[U32][row][:] = bits
            else:
                np.copyto(wave.rows[U32][row], bits, where=wave.mask)

        return put_half
    index = KINDS[kind]

    def put(wave: Wave, value: Array) -> None:
        if wave.full:
            wave.rows[index][row][:] = value
        else:
            np.copyto(wave.rows[index][row], value, where=wave.mask)

    return put


def half_sink(operand: Operand, half: int) -> Sink:
    """Closure that stores a 16-bit result in one half of the destination and keeps the other."""
    base = plain(operand)
    if not isinstance(base, Reg) or base.count != 1:
        raise NotEmulated(f"destination {base}")
    row = row_of(base)
    index = U16 + (HIGH_HALF if half else 0)

    def put(wave: Wave, value: Array) -> None:
        np.copyto(wave.rows[index][row], value.view(np.uint16), where=wave.mask)

    return put


def mask_sink(operand: Operand) -> Callable[[Wave, Array], None]:
    """Closure that stores `bool[64]` as a lane mask; inactive lanes become 0."""
    base = plain(operand)
    if not isinstance(base, Reg) or base.file != "s" or base.count != 2:
        raise NotEmulated(f"{base} where a lane mask is written")
    index = base.index

    def put(wave: Wave, value: Array) -> None:
        wave.set64(index, lane_mask(value if wave.full else value & wave.mask))

    return put
