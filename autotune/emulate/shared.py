"""DS instructions: loads, stores, atomics in LDS, and the lane permutations that use its crossbar.

CDNA3 ISA guide, "LDS & GDS instructions".
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from autotune.emulate.atomic_ops import ATOMICS, Atomic, in_rounds
from autotune.emulate.decoded import Decoded, Modifiers, expect, register, touched
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import Instruction, Operand
from autotune.emulate.registers import LANES, U32, Array, LdsAccess, Wave, register_set, row_of
from autotune.emulate.vmem import Access, data_register, extend, put_words, take_words
from autotune.emulate.waits import issue

READS = {
    "b32": Access(4), "b64": Access(8), "b96": Access(12), "b128": Access(16),
    "u8": Access(1), "i8": Access(1, True), "u16": Access(2), "i16": Access(2, True),
    "u8_d16": Access(1, False, "low"), "u8_d16_hi": Access(1, False, "high"),
    "i8_d16": Access(1, True, "low"), "i8_d16_hi": Access(1, True, "high"),
    "u16_d16": Access(2, False, "low"), "u16_d16_hi": Access(2, False, "high"),
}  # fmt: skip
WRITES = {
    "b8": Access(1), "b16": Access(2),
    "b32": Access(4), "b64": Access(8), "b96": Access(12), "b128": Access(16),
    "b8_d16_hi": Access(1, False, "high"), "b16_d16_hi": Access(2, False, "high"),
}  # fmt: skip
_PAIR = re.compile(r"^ds_(read|write)2(st64)?_b(32|64)$")
_SINGLE = re.compile(r"^ds_(read|write)_(\w+)$")
_SWIZZLE = re.compile(r"^swizzle\((\w+),(.*)\)$")


def _starts(wave: Wave, row: int, offset: int) -> Array:
    return wave.rows[U32][row].astype(np.int64)[wave.mask] + offset


def _decode_read(instruction: Instruction, access: Access) -> Decoded:
    expect(instruction, 2)
    data, address = instruction.operands
    modifiers = Modifiers(instruction)
    offset = modifiers.number("offset")
    modifiers.finish()
    target, source = data_register(data, access), row_of(register(address, "v", 1))
    row, writes, size, line = row_of(target), register_set(target), access.size, instruction.line

    def run(wave: Wave) -> None:
        lds = None
        if wave.exec:
            lds = LdsAccess(_starts(wave, source, offset), size, False)
            words = extend(wave.lds.load(wave.index, lds.starts, size), access)
            put_words(wave, row, words, access, wave.mask, wave.full)
        issue(wave, lgkm=True, writes=writes, line=line, lds=lds)

    return Decoded(run, "lds", touched(address), writes, "lgkm")


def _decode_write(instruction: Instruction, access: Access) -> Decoded:
    expect(instruction, 2)
    address, data = instruction.operands
    modifiers = Modifiers(instruction)
    offset = modifiers.number("offset")
    modifiers.finish()
    row, source = row_of(data_register(data, access)), row_of(register(address, "v", 1))
    size, line = access.size, instruction.line

    def run(wave: Wave) -> None:
        lds = None
        if wave.exec:
            lds = LdsAccess(_starts(wave, source, offset), size, True)
            wave.lds.store(wave.index, lds.starts, take_words(wave, row, access, wave.mask), size)
        issue(wave, lgkm=True, line=line, lds=lds)

    return Decoded(run, "lds", touched(address, data), 0, "lgkm")


def _decode_pair(instruction: Instruction, write: bool, size: int, unit: int) -> Decoded:
    """Two accesses of one instruction, at offset0 and offset1 in units of the element (or of 64 elements)."""
    expect(instruction, 3 if write else 2)
    modifiers = Modifiers(instruction)
    offsets = [modifiers.number("offset0") * unit, modifiers.number("offset1") * unit]
    modifiers.finish()
    count, line = size // 4, instruction.line
    if write:
        address, *parts = instruction.operands
        source = row_of(register(address, "v", 1))
        rows = [row_of(register(part, "va", count)) for part in parts]

        def run_write(wave: Wave) -> None:
            lds = None
            if wave.exec:
                starts = [_starts(wave, source, offset) for offset in offsets]
                for start, row in zip(starts, rows, strict=True):
                    wave.lds.store(wave.index, start, wave.v[row : row + count, wave.mask], size)
                lds = LdsAccess(np.concatenate(starts), size, True)
            issue(wave, lgkm=True, line=line, lds=lds)

        return Decoded(run_write, "lds", touched(*instruction.operands), 0, "lgkm")
    result, address = instruction.operands
    target, source = register(result, "va", 2 * count), row_of(register(address, "v", 1))
    row, writes, access = row_of(target), register_set(target), Access(size)

    def run_read(wave: Wave) -> None:
        lds = None
        if wave.exec:
            starts = [_starts(wave, source, offset) for offset in offsets]
            for i, start in enumerate(starts):
                words = wave.lds.load(wave.index, start, size)
                put_words(wave, row + i * count, words, access, wave.mask, wave.full)
            lds = LdsAccess(np.concatenate(starts), size, False)
        issue(wave, lgkm=True, writes=writes, line=line, lds=lds)

    return Decoded(run_read, "lds", touched(address), writes, "lgkm")


def _swizzle_lanes(text: str) -> Array:
    """Source lane of each lane for the offset of DS_SWIZZLE_B32: int64[64]."""
    lane = np.arange(LANES)
    match = _SWIZZLE.match(text)
    if match is None:
        code = int(text, 0)
        if code & 0x8000:
            if code & 0x7F00:
                raise NotEmulated(f"swizzle mode {code:#x}")
            return (lane & ~3) + (code >> 2 * (lane & 3) & 3)
        keep, put, flip = code & 31, code >> 5 & 31, code >> 10 & 31
    else:
        mode, arguments = match[1], [part.strip() for part in match[2].split(",")]
        if mode == "QUAD_PERM":
            choice: Array = np.array([int(part) for part in arguments])
            return (lane & ~3) + choice.take(lane & 3)
        if mode == "SWAP":
            keep, put, flip = 31, 0, int(arguments[0])
        elif mode == "REVERSE":
            keep, put, flip = 31, 0, int(arguments[0]) - 1
        elif mode == "BROADCAST":
            keep, put, flip = 31 & ~(int(arguments[0]) - 1), int(arguments[1]), 0
        elif mode == "BITMASK_PERM":
            bits = arguments[0].strip('"')
            keep, put, flip = (
                int("".join("1" if c in ones else "0" for c in bits), 2) for ones in ("pi", "1", "i")
            )
        else:
            raise NotEmulated(f"swizzle mode {mode}")
    return (lane & ~31) + ((lane & 31 & keep | put) ^ flip)


def _decode_permute(instruction: Instruction, name: str) -> Decoded:
    """Lane exchange; inactive source lanes give 0, and only active lanes are written."""
    modifiers = Modifiers(instruction)
    text = modifiers.word("offset", "0")
    modifiers.finish()
    result, *sources = instruction.operands
    target = register(result, "v", 1)
    row, writes, line = row_of(target), register_set(target), instruction.line
    if name == "ds_swizzle_b32":
        expect(instruction, 2)
        fixed = _swizzle_lanes(text)
        data = row_of(register(sources[0], "v", 1))

        def lanes_of(wave: Wave) -> Array:
            return fixed
    else:
        expect(instruction, 3)
        offset = int(text, 0)
        address, data = (row_of(register(source, "v", 1)) for source in sources)

        def lanes_of(wave: Wave) -> Array:
            return (wave.rows[U32][address].astype(np.int64) + offset) // 4 % LANES

    def run(wave: Wave) -> None:
        lane, values = lanes_of(wave), wave.rows[U32][data]
        if name == "ds_permute_b32":
            moved = np.zeros(LANES, np.uint32)
            # numpy stores in lane order, so the highest source lane wins, as on hardware.
            moved[lane[wave.mask]] = values[wave.mask]
        else:
            moved = np.where(wave.mask[lane], values[lane], np.uint32(0))
        np.copyto(wave.rows[U32][row], moved, where=wave.mask)
        issue(wave, lgkm=True, writes=writes, line=line)

    return Decoded(run, "lds", touched(*sources), writes, "lgkm")


def _ds_atomic(name: str) -> tuple[Atomic, bool] | None:
    """The atomic operation of a DS mnemonic, and whether it returns the old value."""
    body = name.removeprefix("ds_")
    returns = "_rtn" in body
    body = body.replace("_rtn", "")
    if body == "wrxchg_b32":
        return ATOMICS["swap"], returns
    special = {"min_i": "smin", "max_i": "smax", "min_u": "umin", "max_u": "umax"}
    match = re.match(r"^(add|sub|inc|dec|min|max|and|or|xor)_([uib])(32|64)$", body)
    if match:
        operation = special.get(f"{match[1]}_{match[2]}", match[1]) + ("_x2" if match[3] == "64" else "")
        return (ATOMICS[operation], returns) if operation in ATOMICS else None
    if body in {"add_f32", "pk_add_f16", "pk_add_bf16", "add_f64"}:
        return ATOMICS[body], returns
    return None


def _decode_atomic(instruction: Instruction, atomic: Atomic, returns: bool) -> Decoded:
    expect(instruction, 3 if returns else 2)
    modifiers = Modifiers(instruction)
    offset = modifiers.number("offset")
    modifiers.finish()
    operands: list[Operand] = list(instruction.operands)
    access = Access(atomic.size)
    target = data_register(operands.pop(0), access) if returns else None
    address, data = operands
    source, row = row_of(register(address, "v", 1)), row_of(data_register(data, access))
    writes = register_set(target) if target else 0
    line, combine = instruction.line, atomic.function

    def run(wave: Wave) -> None:
        lds = None
        if wave.exec:
            starts = _starts(wave, source, offset)
            wave.lds.atomic_access(wave.index, starts, atomic.size)
            old = in_rounds(
                starts, take_words(wave, row, access, wave.mask), combine,
                lambda at: wave.lds.words_at(at, atomic.size), wave.lds.put_words_at,
            )  # fmt: skip
            if target:
                put_words(wave, row_of(target), old, access, wave.mask, wave.full)
            lds = LdsAccess(starts, atomic.size, True)
        issue(wave, lgkm=True, writes=writes, line=line, lds=lds)

    return Decoded(run, "lds", touched(address, data), writes, "lgkm")


def decode_lds(instruction: Instruction) -> Decoded | None:
    """Binds a DS instruction; None if the opcode is not one that is known."""
    name = instruction.opcode
    if not name.startswith("ds_"):
        return None
    pair = _PAIR.match(name)
    if pair:
        size = int(pair[3]) // 8
        return _decode_pair(instruction, pair[1] == "write", size, size * (64 if pair[2] else 1))
    single = _SINGLE.match(name)
    if single:
        table: dict[str, Access] = READS if single[1] == "read" else WRITES
        decode: Callable[[Instruction, Access], Decoded] = (
            _decode_read if single[1] == "read" else _decode_write
        )
        return decode(instruction, table[single[2]]) if single[2] in table else None
    if name in {"ds_bpermute_b32", "ds_permute_b32", "ds_swizzle_b32"}:
        return _decode_permute(instruction, name)
    atomic = _ds_atomic(name)
    return _decode_atomic(instruction, *atomic) if atomic else None
