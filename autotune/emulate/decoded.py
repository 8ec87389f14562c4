"""A decoded instruction: a closure to run, and what the run loop must know of it without running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import Imm, Instruction, Operand, Reg, Symbol
from autotune.emulate.registers import Wave, register_set

Run = Callable[[Wave], None]


@dataclass(slots=True)
class Decoded:
    """One instruction bound to its meaning.

    Attributes:
        run: executes it on a wave.
        klass: for the counts: "valu", "mfma", "salu", "smem", "vmem load", "vmem store", "atomic", "lds",
            "scratch", "branch", "barrier", "wait" or "other".
        reads, writes: registers, as sets (see `registers`).
        joins: "vm" or "lgkm" if it is a vector memory or LDS instruction that returns in order, else "".
        saved: those of `reads` that need not hold anything: a spill saves whole tuples of registers, of which
            some may never have been written. What is reloaded is poison, and shows where it is used.
    """

    run: Run
    klass: str
    reads: int = 0
    writes: int = 0
    joins: str = ""
    saved: int = 0


class Modifiers:
    """The modifiers of one instruction; each must be taken, so that none is overlooked."""

    def __init__(self, instruction: Instruction) -> None:
        self._left = dict(instruction.modifiers)

    def flag(self, name: str) -> bool:
        """Takes a bare flag such as `offen`."""
        return self._left.pop(name, None) is not None

    def number(self, name: str, default: int = 0) -> int:
        """Takes an integer such as `offset:16`."""
        text = self._left.pop(name, None)
        return default if text is None else int(text, 0)

    def word(self, name: str, default: str) -> str:
        """Takes a name such as `src0_sel:WORD_1`."""
        return self._left.pop(name, default)

    def bits(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Takes a list such as `op_sel:[0,1]`, filled up with the default's tail."""
        text = self._left.pop(name, None)
        if text is None:
            return default
        given = tuple(int(part, 0) for part in text.strip("[]").split(","))
        return given + default[len(given) :]

    def ignore(self, *names: str) -> None:
        """Drops cache-policy bits, which cannot change a value here: workgroups run one after another."""
        for name in names:
            self._left.pop(name, None)

    def finish(self) -> None:
        """Raises NotEmulated if a modifier was not taken."""
        if self._left:
            raise NotEmulated("modifier " + " ".join(f"{k}:{v}" if v else k for k, v in self._left.items()))


def plain(operand: Operand) -> Reg | Imm | Symbol:
    """The operand, which must bear no source modifier."""
    if operand.neg or operand.abs or operand.sext:
        raise NotEmulated("source modifier on an operand that takes none")
    return operand.base


def register(operand: Operand, files: str, count: int) -> Reg:
    """The operand, which must be `count` registers of one of the files named in `files`, e.g. "va"."""
    base = plain(operand)
    if not isinstance(base, Reg) or base.file not in files or base.count != count:
        raise NotEmulated(f"operand {base} where {count} register(s) of {'/'.join(files)} are needed")
    return base


def touched(*operands: Operand | Reg | Imm | Symbol) -> int:
    """All registers among the operands, as a set."""
    result = 0
    for operand in operands:
        base = operand.base if isinstance(operand, Operand) else operand
        if isinstance(base, Reg):
            result |= register_set(base)
    return result


def expect(instruction: Instruction, *counts: int) -> None:
    """Raises NotEmulated unless the instruction has one of these numbers of operands."""
    if len(instruction.operands) not in counts:
        raise NotEmulated(f"{len(instruction.operands)} operands")
