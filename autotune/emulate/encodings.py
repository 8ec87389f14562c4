"""SDWA and DPP: encodings that take parts of a source's register, or take it from another lane.

CDNA3 ISA guide, "SDWA" and "DPP".
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autotune.emulate.decoded import Modifiers, plain
from autotune.emulate.errors import NotEmulated
from autotune.emulate.lanes import (
    DTYPES,
    HIGH_HALF,
    KINDS,
    WIDE,
    Sink,
    Source,
    is_half,
    sink,
    source,
    viewed,
    with_sign,
)
from autotune.emulate.parser import Operand, Reg
from autotune.emulate.registers import B8, I16, I32, LANES, U16, U32, Array, Wave, row_of

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
    dtype = DTYPES[kind]
    if bits == 16 and is_half(kind):
        read = viewed(operand, KINDS[kind] + (HIGH_HALF if shift else 0))
    elif bits == 16:
        part = viewed(operand, (I16 if operand.sext else U16) + (HIGH_HALF if shift else 0))

        def read(wave: Wave) -> Array:
            return part(wave).astype(dtype)
    else:
        byte = viewed(operand, B8 + shift // 8)
        narrow = np.int8 if operand.sext else np.uint8
        # A byte of a float16 source stands for its bits.
        wide = np.uint16 if kind == "f16" else dtype

        def read(wave: Wave) -> Array:
            return byte(wave).view(narrow).astype(wide).view(dtype)

    return with_sign(read, operand, kind)


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
        (U16 + (HIGH_HALF if shift else 0), np.uint16) if bits == 16 else (B8 + shift // 8, np.uint8)
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
