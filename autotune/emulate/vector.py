"""Vector ALU instructions: how an opcode of the tables becomes a closure, in all its encodings.

The tables of what each opcode computes are in `integer_ops` and `float_ops`; comparisons in `compare`,
carries and lane exchanges in `crosslane`, packed math in `packed`, matrix products in `matrix`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autotune.emulate import encodings
from autotune.emulate import lanes as L
from autotune.emulate.decoded import Decoded, Modifiers, expect, touched
from autotune.emulate.errors import NotEmulated
from autotune.emulate.floats import clamp01
from autotune.emulate.parser import Imm, Instruction, Operand
from autotune.emulate.registers import Array, Wave, splat

Function = Callable[..., Array]
_ENCODING = re.compile(r"_(e32|e64|sdwa|dpp)$")


@dataclass(frozen=True, slots=True)
class Valu:
    """One vector ALU operation.

    Attributes:
        result: kind of the destination.
        sources: kinds of the sources.
        function: from source arrays to the result array; must not write into its arguments.
        accumulates: the destination is read as a further, last source.
        saturating: the same operation on int64 arrays, whose result the clamp modifier then limits; None if
            the modifier is not known for it.
        amounts: (source, mask): only these low bits of that source count, as in a shift.
        keeps_half: VOP3 op_sel picks a half of the destination, and the other half is kept.
    """

    result: str
    sources: tuple[str, ...]
    function: Function
    accumulates: bool = False
    saturating: Function | None = None
    keeps_half: bool = False
    amounts: tuple[tuple[int, int], ...] = ()


def split_encoding(opcode: str) -> tuple[str, str]:
    """Mnemonic and encoding suffix ("", "e32", "e64", "sdwa" or "dpp")."""
    match = _ENCODING.search(opcode)
    return (opcode[: match.start()], match[1]) if match else (opcode, "")


def saturate(function: Function, kind: str) -> Function:
    """Wraps an operation on int64 arrays so that its result is limited to the range of an integer kind."""
    limits = np.iinfo({"u32": "uint32", "i32": "int32", "u16": "uint16", "i16": "int16"}[kind])

    def run(*arguments: Array) -> Array:
        wide = function(*(a.astype(np.int64) for a in arguments))
        return np.clip(wide, limits.min, limits.max).astype(limits.dtype)

    return run


def clamped(operation: Valu) -> Function:
    """The operation's function under the clamp modifier."""
    if L.is_float(operation.result):
        return lambda *arguments: clamp01(operation.function(*arguments))
    if operation.saturating is None:
        raise NotEmulated("clamp on this integer instruction")
    return saturate(operation.saturating, operation.result)


def bind(
    operation: Valu, result: Operand, operands: tuple[Operand, ...], encoding: str, modifiers: Modifiers
) -> tuple[L.Sink, list[L.Source]]:
    """Binds the destination and the sources of an operation under its encoding, taking the encoding's
    modifiers.
    """
    kinds = operation.sources
    if encoding == "sdwa":
        sources = [
            encodings.sdwa_source(operand, kind, modifiers.word(f"src{i}_sel", "DWORD"))
            for i, (operand, kind) in enumerate(zip(operands, kinds, strict=True))
        ]
        select, unused = modifiers.word("dst_sel", "DWORD"), modifiers.word("dst_unused", "UNUSED_PAD")
        if operation.result in L.WIDE:
            if select != "DWORD":
                raise NotEmulated(f"dst_sel {select} on a 64-bit result")
            return L.sink(result, operation.result), sources
        return encodings.sdwa_sink(result, operation.result, select, unused), sources
    halves = modifiers.bits("op_sel", (0,) * (len(kinds) + 1))
    if any(half and not L.is_half(kind) for half, kind in zip(halves, kinds, strict=False)):
        raise NotEmulated("op_sel on a source that is not 16 bits wide")
    sources = [
        L.source(operand, kind, half) for operand, kind, half in zip(operands, kinds, halves, strict=False)
    ]
    if operation.keeps_half:
        store = L.half_sink(result, halves[-1])
    elif halves[len(kinds)]:
        raise NotEmulated("op_sel on this destination")
    else:
        store = L.sink(result, operation.result)
    if encoding == "dpp":
        lane, valid = encodings.dpp_pattern(modifiers)
        sources[0] = encodings.dpp_source(sources[0], lane, valid)
        store = encodings.masked_sink(store, encodings.dpp_mask(modifiers, lane, valid))
    return store, sources


def decode_valu(instruction: Instruction, table: dict[str, Valu]) -> Decoded | None:
    """Binds an instruction whose mnemonic is in `table`; None if it is not there."""
    name, encoding = split_encoding(instruction.opcode)
    operation = table.get(name)
    if operation is None:
        return None
    expect(instruction, len(operation.sources) + 1)
    result, operands = instruction.operands[0], instruction.operands[1:]
    modifiers = Modifiers(instruction)
    if modifiers.number("mul") or modifiers.number("div"):
        raise NotEmulated("output modifier, which hardware ignores when denormals are on")
    function = clamped(operation) if modifiers.flag("clamp") else operation.function
    store, sources = bind(operation, result, operands, encoding, modifiers)
    modifiers.finish()
    for index, mask in operation.amounts:
        sources[index] = low_bits(sources[index], operands[index], mask, operation.sources[index])
    if operation.accumulates:
        sources.append(L.source(result, operation.result))
    # A kept half, or what SDWA or DPP leave alone, is no read: compilers let it be undefined.
    reads = touched(*operands, *([result] if operation.accumulates else []))
    return Decoded(_apply(store, function, sources), "valu", reads, touched(result))


def low_bits(read: L.Source, operand: Operand, mask: int, kind: str) -> L.Source:
    """The low bits of a source; done once if it is a constant, which shift amounts mostly are."""
    keep = splat(mask)[L.KINDS[kind]]
    if isinstance(operand.base, Imm):
        if isinstance(operand.base.value, int) and 0 <= operand.base.value <= mask:
            return read
        raise NotEmulated(f"constant amount {operand.base.value}")
    return lambda wave: read(wave) & keep


def _apply(store: L.Sink, function: Function, sources: list[L.Source]) -> Callable[[Wave], None]:
    """The instruction's closure; written out for the usual numbers of sources because it is the hot path."""
    if len(sources) == 1:
        only = sources[0]
        return lambda wave: store(wave, function(only(wave)))
    if len(sources) == 2:
        first, second = sources
        return lambda wave: store(wave, function(first(wave), second(wave)))
    if len(sources) == 3:
        first, second, third = sources
        return lambda wave: store(wave, function(first(wave), second(wave), third(wave)))
    return lambda wave: store(wave, function(*[read(wave) for read in sources]))
