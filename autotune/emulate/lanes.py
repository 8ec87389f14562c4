"""How vector instructions read their sources and write their results: types, modifiers, EXEC, SDWA and DPP.

A source is a closure from a wave to one array of 64 values of its kind; a destination is a closure that stores such
an array in the active lanes. CDNA3 ISA guide, "Vector ALU operations", "SDWA" and "DPP".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from autotune.emulate.decoded import Modifiers, plain
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import Imm, Operand, Reg
from autotune.emulate.registers import (
    B8,
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
)  # fmt: skip
from autotune.emulate.scalar import constant, getter, lane_source

Source = Callable[[Wave], Array]
Sink = Callable[[Wave, Array], None]

# Kinds of one register ("b32" is "u32" that takes neg and abs as a float does); those of two registers are "u64", "i64", "f64"; "lanes" is a mask in a scalar pair.
KINDS = {"u32": U32, "b32": U32, "i32": I32, "f32": F32, "u16": U16, "i16": I16, "f16": F16}
_DTYPES = {
    "u32": np.uint32,
    "b32": np.uint32,
    "i32": np.int32,
    "u16": np.uint16,
    "i16": np.int16,
    "f16": np.float16,
}
WIDE = {"u64": np.uint64, "i64": np.int64, "f64": np.float64}
_HIGH_HALF = 3  # from U16 to U16H


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
    return _with_sign(read, operand, kind)


def _with_sign(read: Source, operand: Operand, kind: str) -> Source:
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
    return _viewed(operand, KINDS[kind] + (_HIGH_HALF if half else 0))


def _viewed(operand: Operand, index: int) -> Source:
    """Closure that reads one register, scalar or constant through view `index`."""
    base = operand.base
    if isinstance(base, Imm):
        # A float constant has the width of the operand; an integer one is 32 bits, of which a part may be read.
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
    index = U16 + (_HIGH_HALF if half else 0)

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


# SDWA: a source is a byte or word of its register, a result goes to a byte or word of it.

_SELECT = {"BYTE_0": (0, 8), "BYTE_1": (8, 8), "BYTE_2": (16, 8), "BYTE_3": (24, 8), "WORD_0": (0, 16),
           "WORD_1": (16, 16), "DWORD": (0, 32)}  # fmt: skip


def _selection(name: str) -> tuple[int, int]:
    if name not in _SELECT:
        raise NotEmulated(f"selection {name}")
    return _SELECT[name]


def sdwa_source(operand: Operand, kind: str, select: str) -> Source:
    """Closure that reads the selected part of a source, zero- or sign-extended (`sext`), as `kind`."""
    shift, bits = _selection(select)
    if bits == 32:
        return source(replace(operand, sext=False), kind)
    if kind in {"lanes", "f32", *WIDE}:
        raise NotEmulated(f"selection {select} of a source of kind {kind}")
    dtype = _DTYPES[kind]
    if bits == 16 and is_half(kind):
        read = _viewed(operand, KINDS[kind] + (_HIGH_HALF if shift else 0))
    elif bits == 16:
        part = _viewed(operand, (I16 if operand.sext else U16) + (_HIGH_HALF if shift else 0))

        def read(wave: Wave) -> Array:
            return part(wave).astype(dtype)
    else:
        byte = _viewed(operand, B8 + shift // 8)
        narrow = np.int8 if operand.sext else np.uint8
        # A byte of a float16 source stands for its bits.
        wide = np.uint16 if kind == "f16" else dtype

        def read(wave: Wave) -> Array:
            return byte(wave).view(narrow).astype(wide).view(dtype)

    return _with_sign(read, operand, kind)


def sdwa_sink(operand: Operand, kind: str, select: str, unused: str) -> Sink:
    """Closure that stores a result in the selected part; the rest is zeroed, sign-extended or kept."""
    base = plain(operand)
    if not isinstance(base, Reg) or base.count != 1 or kind in WIDE:
        raise NotEmulated(f"SDWA destination {base} of kind {kind}")
    if unused not in {"UNUSED_PAD", "UNUSED_SEXT", "UNUSED_PRESERVE"}:
        raise NotEmulated(f"dst_unused {unused}")
    row = row_of(base)
    shift, bits = _selection(select)
    if bits == 32:
        return sink(operand, kind)
    raw = np.uint16 if is_half(kind) else np.uint32
    target, narrow = (
        (U16 + (_HIGH_HALF if shift else 0), np.uint16) if bits == 16 else (B8 + shift // 8, np.uint8)
    )
    up = 32 - shift - bits

    def put(wave: Wave, value: Array) -> None:
        field = value.view(raw)
        if unused == "UNUSED_SEXT":
            top = field.astype(np.uint32) << np.uint32(32 - bits)
            np.copyto(wave.rows[I32][row], top.view(np.int32) >> up, where=wave.mask)
            return
        part = field.astype(narrow)  # a copy, since the value may be the destination itself
        if unused == "UNUSED_PAD":
            np.copyto(wave.rows[U32][row], 0, where=wave.mask)
        np.copyto(wave.rows[target][row], part, where=wave.mask)

    return put


# DPP: source 0 comes from another lane; where that lane is invalid the result is 0 or is not written.


def dpp_pattern(modifiers: Modifiers) -> tuple[Array, Array]:
    """Takes the DPP control: source lane of each lane (int[64]) and whether it exists (bool[64])."""
    lane = np.arange(LANES)
    row, column = lane & ~15, lane & 15
    always = np.ones(LANES, np.bool_)
    quad = modifiers.bits("quad_perm", ())
    if quad:
        return (lane & ~3) + np.array(quad)[lane & 3], always
    if modifiers.flag("row_mirror"):
        return row + 15 - column, always
    if modifiers.flag("row_half_mirror"):
        return (lane & ~7) + 7 - (lane & 7), always
    for name, step in (("row_shl", 1), ("row_shr", -1)):
        count = modifiers.number(name)
        if count:
            target = column + step * count
            return row + target % 16, (target >= 0) & (target < 16)
    count = modifiers.number("row_ror")
    if count:
        return row + (column - count) % 16, always
    for name, step in (("wave_shl", 1), ("wave_shr", -1)):
        if modifiers.number(name):
            target = lane + step
            return target % LANES, (target >= 0) & (target < LANES)
    for name, step in (("wave_rol", 1), ("wave_ror", -1)):
        if modifiers.number(name):
            return (lane + step) % LANES, always
    broadcast = modifiers.number("row_bcast")
    if broadcast == 15:  # lane 15 of each row to the whole next row
        return np.maximum(row - 1, 0), row > 0
    if broadcast == 31:  # lane 31 to the upper half
        return np.full(LANES, 31), lane >= 32
    common = modifiers.number("row_newbcast", -1)
    if 0 <= common < 16:
        return row + common, always
    raise NotEmulated("DPP without a control that is known")


def dpp_source(read: Source, lane: Array, valid: Array) -> Source:
    """Closure that reads `read` from other lanes, 0 where the source lane is invalid or inactive."""

    def permuted(wave: Wave) -> Array:
        value = read(wave)[lane]
        usable = valid & wave.mask[lane]
        value[~usable] = 0
        return value

    return permuted


def dpp_mask(modifiers: Modifiers, lane: Array, valid: Array) -> Source:
    """Takes row_mask, bank_mask and bound_ctrl: closure that gives the lanes a DPP instruction writes."""
    row_mask, bank_mask = modifiers.number("row_mask", 15), modifiers.number("bank_mask", 15)
    # Both spellings, bound_ctrl:0 and bound_ctrl:1, set the bit on this generation.
    bound_zero = modifiers.word("bound_ctrl", "off") != "off"
    index = np.arange(LANES)
    chosen = (row_mask >> (index >> 4) & 1 == 1) & (bank_mask >> (index >> 2 & 3) & 1 == 1)

    def writable(wave: Wave) -> Array:
        result: Array = wave.mask & chosen
        return result if bound_zero else result & valid & wave.mask[lane]

    return writable


def masked_sink(store: Sink, writable: Source) -> Sink:
    """A sink that stores only in the lanes that `writable` gives, whatever EXEC says."""

    def put(wave: Wave, value: Array) -> None:
        saved = wave.mask, wave.full
        wave.mask, wave.full = writable(wave), False
        store(wave, value)
        wave.mask, wave.full = saved

    return put
