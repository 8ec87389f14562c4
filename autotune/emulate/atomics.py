"""Global, flat and buffer atomics, with or without return.

The old value comes back if sc0 (glc) is set. CDNA3 ISA guide, "Memory atomics".
"""

from __future__ import annotations

import re

import numpy as np

from autotune.emulate import addressing as A
from autotune.emulate.atomic_ops import ATOMICS, Atomic, in_rounds
from autotune.emulate.decoded import Decoded, Modifiers, expect, register, touched
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import Instruction
from autotune.emulate.registers import Array, Wave, register_set, row_of
from autotune.emulate.vmem import Access, data_register, in_range, put_words
from autotune.emulate.waits import issue

_MNEMONIC = re.compile(r"^(global|flat|buffer)_atomic_(\w+)$")


def _apply(wave: Wave, atomic: Atomic, where: Array, data: Array) -> Array:
    """Old words uint32[k, n] of the atomic at addresses int64[n]."""
    memory, size = wave.memory, atomic.size
    memory.count("atomic", where, size)
    return in_rounds(
        where, data, atomic.function,
        lambda at: memory.load(at, size), lambda at, words: memory.store(at, words, size),
    )  # fmt: skip


def decode_atomic(instruction: Instruction) -> Decoded | None:
    """Binds an atomic on global memory; None if the opcode is not one."""
    match = _MNEMONIC.match(instruction.opcode)
    if match is None or match[2] not in ATOMICS:
        return None
    space, atomic = match[1], ATOMICS[match[2]]
    modifiers = Modifiers(instruction)
    returns = modifiers.flag("sc0") | modifiers.flag("glc")
    modifiers.ignore("sc1", "nt", "slc")
    if space == "buffer":
        return _decode_buffer(instruction, atomic, returns, modifiers)
    operands = list(instruction.operands)
    expected = (3 if space == "global" else 2) + returns
    expect(instruction, expected)
    access = Access(atomic.size)
    target = data_register(operands.pop(0), access) if returns else None
    data = operands.pop(1)
    addresses = (
        A.flat_address(operands[0], modifiers)
        if space == "flat"
        else A.global_address(operands[0], operands[1], modifiers)
    )
    modifiers.finish()
    words = atomic.data // 4
    row = row_of(register(data, "va", words))
    writes = register_set(target) if target else 0
    line, flat = instruction.line, space == "flat"

    def run(wave: Wave) -> None:
        if wave.exec:
            old = _apply(wave, atomic, addresses(wave)[wave.mask], wave.v[row : row + words, wave.mask])
            if target:
                put_words(wave, row_of(target), old, access, wave.mask, wave.full)
        issue(wave, vm=True, lgkm=flat, writes=writes, line=line, ordered=not flat)

    reads = A.operand_registers(*operands) | touched(data)
    return Decoded(run, "atomic", reads, writes, "" if flat else "vm")


def _decode_buffer(instruction: Instruction, atomic: Atomic, returns: bool, modifiers: Modifiers) -> Decoded:
    """The data register takes the old value; an access out of range is dropped and returns 0."""
    expect(instruction, 4)
    data, vaddr, resource, soffset = instruction.operands
    buffer = A.buffer_address(vaddr, resource, soffset, modifiers)
    modifiers.finish()
    words = atomic.data // 4
    source = register(data, "va", words)
    row, line = row_of(source), instruction.line
    if returns and atomic.data != atomic.size:
        raise NotEmulated("buffer compare-and-swap with return")
    writes = register_set(source) if returns else 0

    def run(wave: Wave) -> None:
        if wave.exec:
            address = buffer(wave)
            selected = in_range(address, atomic.size).all(axis=0) & wave.mask
            old = np.zeros((atomic.size // 4, 64), np.uint32)
            if selected.any():
                where = address.offsets[selected] + address.base
                old[:, selected] = _apply(wave, atomic, where, wave.v[row : row + words, selected])
            if returns:
                np.copyto(wave.v[row : row + len(old)], old, where=wave.mask)
        issue(wave, vm=True, writes=writes, line=line)

    return Decoded(run, "atomic", A.operand_registers(vaddr, resource, soffset) | touched(data), writes, "vm")
