"""Vector memory loads and stores: GLOBAL, FLAT, MUBUF and SCRATCH.

Memory operations take effect in program order when they are issued; what hardware leaves open until an
s_waitcnt is kept track of by `waits`. CDNA3 ISA guide, "Vector memory operations", "Flat memory
instructions".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autotune.emulate import addressing as A
from autotune.emulate.decoded import Decoded, Modifiers, expect, plain, touched
from autotune.emulate.errors import Fault, NotEmulated
from autotune.emulate.parser import M0, Instruction, Operand, Reg
from autotune.emulate.registers import LANES, U16, U16H, U32, Array, LdsAccess, Wave, register_set, row_of
from autotune.emulate.waits import issue


@dataclass(frozen=True, slots=True)
class Access:
    """Width of a load or store: bytes a lane, sign extension, and which 16-bit half of the register it
    uses.
    """

    size: int
    signed: bool = False
    half: str = ""  # "", "low" (D16) or "high" (D16_HI)


_WORDS = {"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16}
LOADS = {name: Access(size) for name, size in _WORDS.items()} | {
    "ubyte": Access(1),
    "sbyte": Access(1, True),
    "ushort": Access(2),
    "sshort": Access(2, True),
    "ubyte_d16": Access(1, False, "low"),
    "ubyte_d16_hi": Access(1, False, "high"),
    "sbyte_d16": Access(1, True, "low"),
    "sbyte_d16_hi": Access(1, True, "high"),
    "short_d16": Access(2, False, "low"),
    "short_d16_hi": Access(2, False, "high"),
}
STORES = {name: Access(size) for name, size in _WORDS.items()} | {
    "byte": Access(1),
    "byte_d16_hi": Access(1, False, "high"),
    "short": Access(2),
    "short_d16_hi": Access(2, False, "high"),
}
_MNEMONIC = re.compile(r"^(global|flat|buffer|scratch)_(load|store)_(lds_)?(\w+)$")

# Reads words at addresses int64[n] (n active lanes) for the lanes `selected`: uint32[words, n].
_Reader = Callable[[Wave, Array, Array], Array]


def extend(words: Array, access: Access) -> Array:
    """Sign-extends loaded bytes or shorts where the access asks for it."""
    if access.signed:
        up = 32 - 8 * access.size
        return (words.view(np.int32) << up >> up).view(np.uint32)
    return words


def put_words(wave: Wave, row: int, words: Array, access: Access, selected: Array, everywhere: bool) -> None:
    """Stores loaded words uint32[k, n] in the n selected lanes of the registers from `row` on."""
    if access.half:
        target = wave.rows[U16H if access.half == "high" else U16][row]
        target[selected] = words[0].astype(np.uint16)
    elif everywhere:
        wave.v[row : row + len(words)] = words
    else:
        wave.v[row : row + len(words), selected] = words


def take_words(wave: Wave, row: int, access: Access, selected: Array) -> Array:
    """Data of a store, uint32[k, n], from the n selected lanes of the registers from `row` on."""
    if access.half == "high":
        return wave.rows[U16H][row][selected].astype(np.uint32)[None, :]
    count = (access.size + 3) // 4
    return wave.v[row : row + count, selected]


def scratch_cells(wave: Wave, offsets: Array, selected: Array, size: int) -> tuple[Array, Array]:
    """Index into `wave.scratch` of the bytes of each selected lane.

    Raises:
        Fault: outside of the kernel's private segment.
    """
    if int(offsets.min()) < 0 or int(offsets.max()) + size > len(wave.scratch):
        raise Fault(f"scratch access at {int(offsets.max())} outside of {len(wave.scratch)} bytes")
    return offsets[:, None] + np.arange(size), np.flatnonzero(selected)[:, None]


def _flat_space(
    instruction: Instruction, kind: str, modifiers: Modifiers, address: list[Operand]
) -> A.Addresses:
    if kind == "flat":
        if len(address) != 1:
            raise NotEmulated(f"{len(instruction.operands)} operands")
        return A.flat_address(address[0], modifiers)
    if len(address) != 2:
        raise NotEmulated(f"{len(instruction.operands)} operands")
    if kind == "global":
        return A.global_address(address[0], address[1], modifiers)
    return A.scratch_address(address[0], address[1], modifiers)


def decode_vmem(instruction: Instruction) -> Decoded | None:
    """Binds a load or store; None if the opcode is not one (atomics are in `atomics`)."""
    match = _MNEMONIC.match(instruction.opcode)
    if match is None:
        return None
    space, direction, into_lds, width = match.groups()
    table = LOADS if direction == "load" else STORES
    if width not in table:
        return None
    modifiers = Modifiers(instruction)
    # Cache policy: workgroups run one after another on one coherent memory.
    modifiers.ignore("sc0", "sc1", "nt", "glc", "slc")
    access = table[width]
    if into_lds or modifiers.flag("lds"):
        return _decode_to_lds(instruction, space, access, modifiers)
    if space == "buffer":
        expect(instruction, 4)
        data, vaddr, resource, soffset = instruction.operands
        buffer = A.buffer_address(vaddr, resource, soffset, modifiers)
        modifiers.finish()
        run = _buffer_load if direction == "load" else _buffer_store
        return run(instruction, data, buffer, access, A.operand_registers(vaddr, resource, soffset))
    operands = list(instruction.operands)
    # Loads name the data first, stores the address first.
    data = operands.pop(0 if direction == "load" else 1)
    addresses = _flat_space(instruction, space, modifiers, operands)
    modifiers.finish()
    reads = A.operand_registers(*operands)
    run_flat = _load if direction == "load" else _store
    return run_flat(instruction, data, addresses, access, reads, space)


def data_register(operand: Operand, access: Access) -> Reg:
    """The data operand, which must be as wide as the access."""
    base = plain(operand)
    if not isinstance(base, Reg) or base.file == "s" or base.count != (access.size + 3) // 4:
        raise NotEmulated(f"data operand {base} of {access.size} bytes")
    return base


def _load(
    instruction: Instruction, data: Operand, addresses: A.Addresses, access: Access, reads: int, space: str
) -> Decoded:
    target = data_register(data, access)
    row, writes, size, line = row_of(target), register_set(target), access.size, instruction.line

    def run(wave: Wave) -> None:
        active = wave.exec.bit_count()
        if active:
            where = addresses(wave)
            if not wave.full:
                where = where[wave.mask]
            if space == "scratch":
                raw = np.zeros((active, (size + 3) // 4 * 4), np.uint8)
                raw[:, :size] = wave.scratch[scratch_cells(wave, where, wave.mask, size)]
                words = np.ascontiguousarray(raw.view(np.uint32).T)
            else:
                wave.memory.count("load", where, size)
                words = wave.memory.load(where, size)
            put_words(wave, row, extend(words, access), access, wave.mask, wave.full)
        flat = space == "flat"
        issue(wave, vm=True, lgkm=flat, writes=writes, nbytes=size * active, line=line, ordered=not flat)

    klass = "scratch" if space == "scratch" else "vmem load"
    return Decoded(run, klass, reads, writes, "" if space == "flat" else "vm")


def _store(
    instruction: Instruction, data: Operand, addresses: A.Addresses, access: Access, reads: int, space: str
) -> Decoded:
    row, size, line = row_of(data_register(data, access)), access.size, instruction.line

    def run(wave: Wave) -> None:
        active = wave.exec.bit_count()
        if active:
            where = addresses(wave)[wave.mask]
            words = take_words(wave, row, access, wave.mask)
            if space == "scratch":
                raw = np.ascontiguousarray(words.T).view(np.uint8)[:, :size]
                wave.scratch[scratch_cells(wave, where, wave.mask, size)] = raw
            else:
                wave.memory.count("store", where, size)
                wave.memory.store(where, words, size)
        flat = space == "flat"
        issue(wave, vm=True, lgkm=flat, line=line, ordered=not flat)

    joins = "" if space == "flat" else "vm"
    if space == "scratch":
        return Decoded(run, "scratch", reads | touched(data), 0, joins, touched(data))
    return Decoded(run, "vmem store", reads | touched(data), 0, joins)


def in_range(address: A.BufferAddress, size: int) -> Array:
    """bool[words, 64]: which words of each lane are inside the buffer; a byte or short counts as one word.

    Every 32-bit word is checked for itself, the scalar offset included.
    """
    steps = np.arange(0, max(size, 4), 4)[:, None]
    return np.asarray(address.offsets + steps < address.records)


def _buffer_load(
    instruction: Instruction,
    data: Operand,
    buffer: Callable[[Wave], A.BufferAddress],
    access: Access,
    reads: int,
) -> Decoded:
    target = data_register(data, access)
    row, writes, size, line = row_of(target), register_set(target), access.size, instruction.line

    def run(wave: Wave) -> None:
        active = wave.exec.bit_count()
        if active:
            words = load_buffer(wave, buffer(wave), size)
            put_words(wave, row, extend(words, access), access, wave.mask, wave.full)
        issue(wave, vm=True, writes=writes, nbytes=size * active, line=line)

    return Decoded(run, "vmem load", reads, writes, "vm")


def load_buffer(wave: Wave, address: A.BufferAddress, size: int) -> Array:
    """Reads the active lanes' words uint32[k, n]; out of range gives 0, as hardware does."""
    selected = wave.mask
    inside = in_range(address, size)[:, selected]
    where = address.offsets[selected] + address.base
    if inside.all():
        wave.memory.count("load", where, size)
        return wave.memory.load(where, size)
    words = np.zeros((len(inside), len(where)), np.uint32)
    whole = inside.all(axis=0)
    if whole.any():
        wave.memory.count("load", where[whole], size)
        words[:, whole] = wave.memory.load(where[whole], size)
    partial = inside.any(axis=0) & ~whole
    for j in range(len(inside)):
        some = inside[j] & partial
        if some.any():
            words[j, some] = wave.memory.load(where[some] + 4 * j, 4)[0]
    return words


def _buffer_store(
    instruction: Instruction,
    data: Operand,
    buffer: Callable[[Wave], A.BufferAddress],
    access: Access,
    reads: int,
) -> Decoded:
    row, size, line = row_of(data_register(data, access)), access.size, instruction.line

    def run(wave: Wave) -> None:
        if wave.exec:
            address = buffer(wave)
            inside = in_range(address, size) & wave.mask
            whole: Array = np.asarray(inside.all(axis=0))
            if whole.any():
                where = address.offsets[whole] + address.base
                wave.memory.count("store", where, size)
                wave.memory.store(where, take_words(wave, row, access, whole), size)
            for j in range(len(inside)):
                some = inside[j] & ~whole
                if some.any():
                    where = address.offsets[some] + address.base + 4 * j
                    wave.memory.store(where, wave.rows[U32][row + j][some][None, :], 4)
        issue(wave, vm=True, line=line)

    return Decoded(run, "vmem store", reads | touched(data), 0, "vm")


def _decode_to_lds(instruction: Instruction, space: str, access: Access, modifiers: Modifiers) -> Decoded:
    """Load straight into LDS: lane l's word goes to M0[15:0] + constant offset + 4·l."""
    if access.size != 4 or space not in {"global", "buffer"}:
        raise NotEmulated("load to LDS of this width")
    constant = int(instruction.modifiers.get("offset", "0"), 0)
    operands, line = instruction.operands, instruction.line
    if space == "buffer":
        expect(instruction, 3)
        buffer = A.buffer_address(operands[0], operands[1], operands[2], modifiers)
    else:
        expect(instruction, 2)
        addresses = A.global_address(operands[0], operands[1], modifiers)
    modifiers.finish()
    lane = np.arange(LANES) * 4

    def run(wave: Wave) -> None:
        target = None
        if wave.exec:
            if space == "buffer":
                words = load_buffer(wave, buffer(wave), 4)
            else:
                where = addresses(wave)[wave.mask]
                wave.memory.count("load", where, 4)
                words = wave.memory.load(where, 4)
            target = LdsAccess((lane + (wave.s[M0] & 0xFFFF) + constant)[wave.mask], 4, True)
            wave.lds.store(wave.index, target.starts, words, 4)
        issue(wave, vm=True, nbytes=4 * wave.exec.bit_count(), line=line, lds=target)

    return Decoded(run, "vmem load", A.operand_registers(*operands) | register_set(Reg("s", M0, 1)), 0, "vm")
