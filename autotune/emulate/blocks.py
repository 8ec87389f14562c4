"""A program as basic blocks of decoded instructions, and the loop that runs a wave through them.

Decoding happens once per program: every instruction becomes a closure, so that running it looks at no text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from autotune.emulate.atomics import decode_atomic
from autotune.emulate.compare import decode_compare
from autotune.emulate.crosslane import decode_crosslane
from autotune.emulate.decoded import Decoded, Modifiers, Run, expect, plain
from autotune.emulate.errors import EmulationError, Fault, NotEmulated
from autotune.emulate.float_ops import FLOAT
from autotune.emulate.integer_ops import INTEGER, INTEGER16
from autotune.emulate.matrix import decode_matrix
from autotune.emulate.modes import check_modes, decode_mode
from autotune.emulate.packed import decode_packed
from autotune.emulate.parser import VCC, Instruction, Operand, Program, Symbol
from autotune.emulate.registers import Wave
from autotune.emulate.scalar import decode_scalar
from autotune.emulate.shared import decode_lds
from autotune.emulate.smem import decode_smem
from autotune.emulate.vector import decode_valu
from autotune.emulate.vmem import decode_vmem
from autotune.emulate.waits import WaitSite, decode_waitcnt

# Where a block leads, besides the index of another block.
END, BARRIER = -1, -2
_VALU = INTEGER | INTEGER16 | FLOAT

_CONDITIONS: dict[str, Callable[[Wave], bool]] = {
    "s_branch": lambda wave: True,
    "s_cbranch_scc0": lambda wave: wave.scc == 0,
    "s_cbranch_scc1": lambda wave: wave.scc == 1,
    "s_cbranch_vccz": lambda wave: wave.get64(VCC) == 0,
    "s_cbranch_vccnz": lambda wave: wave.get64(VCC) != 0,
    "s_cbranch_execz": lambda wave: wave.exec == 0,
    "s_cbranch_execnz": lambda wave: wave.exec != 0,
}
# Write-back and invalidation of caches that this model does not have.
_CACHE_CONTROL = frozenset({"buffer_wbl2", "buffer_inv", "buffer_wbinvl1", "buffer_wbinvl1_vol"})


def decode(instruction: Instruction, sites: list[WaitSite]) -> Decoded:
    """Binds one instruction that is no branch, barrier or end.

    Args:
        instruction: what to bind.
        sites: where an s_waitcnt adds its statistics.

    Raises:
        NotEmulated: unknown opcode, operand or modifier; bears the line and the text.
    """
    try:
        decoded = _decode(instruction, sites)
        if decoded is None:
            raise NotEmulated(f"unknown instruction {instruction.opcode}")
        return decoded
    except EmulationError as error:
        error.locate(instruction.line, instruction.text)
        raise


def _decode(instruction: Instruction, sites: list[WaitSite]) -> Decoded | None:
    name = instruction.opcode
    if name == "s_waitcnt":
        return decode_waitcnt(instruction, sites)
    if name in _CACHE_CONTROL:
        modifiers = Modifiers(instruction)
        modifiers.ignore("sc0", "sc1", "nt")
        modifiers.finish()
        expect(instruction, 0)
        return Decoded(lambda wave: None, "other")
    special = decode_mode(instruction)
    if special is not None:
        return special
    if name.startswith("s_"):
        return decode_smem(instruction) or decode_scalar(instruction)
    if name.startswith("ds_"):
        return decode_lds(instruction)
    if name.startswith("v_"):
        return (
            decode_valu(instruction, _VALU)
            or decode_compare(instruction)
            or decode_matrix(instruction)
            or decode_packed(instruction)
            or decode_crosslane(instruction)
        )
    return decode_vmem(instruction) or decode_atomic(instruction)


@dataclass(slots=True)
class BasicBlock:
    """Instructions that run one after another, and what ends them.

    Attributes:
        body: (registers touched, closure, decoded, instruction) of each but the last.
        exit: the branch, barrier or end, if the block has one, else None.
        condition: whether the branch is taken.
        taken, fallthrough: block indices, END or BARRIER.
        executions: how often a wave ran it.
    """

    body: list[tuple[int, Run, Decoded, Instruction]]
    exit: Instruction | None = None
    condition: Callable[[Wave], bool] | None = None
    condition_reads: int = 0
    taken: int = END
    fallthrough: int = END
    executions: int = 0

    def __len__(self) -> int:
        return len(self.body) + (self.exit is not None)


@dataclass(slots=True)
class Code:
    """A decoded program.

    Attributes:
        blocks: basic blocks.
        entry: block at which a kernel starts, by its name.
        sites: statistics of each s_waitcnt with a vmcnt.
    """

    blocks: list[BasicBlock]
    entry: dict[str, int]
    sites: list[WaitSite] = field(default_factory=list)


def _is_exit(name: str) -> bool:
    return name in _CONDITIONS or name in {"s_endpgm", "s_barrier", "s_trap"}


def _target(instruction: Instruction, program: Program) -> int:
    """Index of the instruction that a branch leads to."""
    expect(instruction, 1)
    base = plain(instruction.operands[0])
    if not isinstance(base, Symbol) or base.name not in program.labels:
        raise NotEmulated(f"branch to {base}", instruction.line, instruction.text)
    return program.labels[base.name]


_LONG_TARGET = re.compile(r"^\(([\w.$@]+)-[\w.$@]+\)&4294967295$")


def fold_long_branches(program: Program) -> None:
    """Rewrites branches that are too far for s_branch: s_getpc, s_add, s_addc with a label distance, s_setpc.

    There are no addresses of instructions here, so only this one sequence of LLVM's is understood; the first
    three become s_nop and the last one s_branch. Any other s_getpc_b64 stays, and is not emulated.
    """
    instructions = program.instructions
    for i, first in enumerate(instructions[:-3]):
        if first.opcode != "s_getpc_b64":
            continue
        following = instructions[i + 1 : i + 4]
        if [part.opcode for part in following] != ["s_add_u32", "s_addc_u32", "s_setpc_b64"]:
            continue
        distance = following[0].operands[-1].base
        match = _LONG_TARGET.match(distance.name) if isinstance(distance, Symbol) else None
        if match is None or following[2].operands != first.operands:
            continue
        for j in range(3):
            instructions[i + j] = replace(instructions[i + j], opcode="s_nop", operands=())
        target = (Operand(Symbol(match[1])),)
        instructions[i + 3] = replace(instructions[i + 3], opcode="s_branch", operands=target)


def build(program: Program) -> Code:
    """Splits a parsed program into blocks and decodes all of it.

    Raises:
        NotEmulated: some instruction is not known, reachable or not.
    """
    fold_long_branches(program)
    check_modes(program.instructions)
    instructions = program.instructions
    leaders = {program.labels[name] for name in program.kernels if name in program.labels}
    for i, instruction in enumerate(instructions):
        if _is_exit(instruction.opcode):
            leaders.add(i + 1)
        if instruction.opcode in _CONDITIONS:
            leaders.add(_target(instruction, program))
    starts = sorted(leader for leader in leaders if leader < len(instructions))
    number = {start: i for i, start in enumerate(starts)}
    code = Code([], {})
    for i, start in enumerate(starts):
        stop = starts[i + 1] if i + 1 < len(starts) else len(instructions)
        following = number.get(stop, END)
        block = BasicBlock([], fallthrough=following, taken=following)
        for instruction in instructions[start:stop]:
            if _is_exit(instruction.opcode):
                _close(block, instruction, program, number)
            else:
                decoded = decode(instruction, code.sites)
                block.body.append((decoded.reads | decoded.writes, decoded.run, decoded, instruction))
        code.blocks.append(block)
    code.entry = {name: number[program.labels[name]] for name in program.kernels if name in program.labels}
    return code


def _close(block: BasicBlock, instruction: Instruction, program: Program, number: dict[int, int]) -> None:
    name = instruction.opcode
    block.exit = instruction
    if name in _CONDITIONS:
        block.condition = _CONDITIONS[name]
        block.condition_reads = 3 << 512 + VCC if "vcc" in name else 0
        block.taken = number.get(_target(instruction, program), END)
        return
    Modifiers(instruction).finish()
    expect(instruction, 1 if name == "s_trap" else 0)
    block.condition = lambda wave: True
    if name == "s_trap":

        def trap(wave: Wave) -> bool:
            raise Fault("trap, a failed assertion of the kernel")

        block.condition = trap
    block.taken = BARRIER if name == "s_barrier" else END


def run_wave(wave: Wave, code: Code, budget: int) -> tuple[int, int]:
    """Runs a wave to its next barrier or its end.

    Args:
        wave: its `pc` is the block to start with; afterwards the one to go on with.
        code: the program.
        budget: wave instructions that may still be executed.

    Returns:
        BARRIER or END, and what is left of the budget.

    Raises:
        Fault: the kernel is wrong, or the budget is used up.
    """
    blocks = code.blocks
    position = wave.pc
    instruction = None
    try:
        while True:
            block = blocks[position]
            block.executions += 1
            budget -= len(block)
            for registers, run, decoded, instruction in block.body:  # noqa: B007, for the except below
                if registers & wave.hazard:
                    queue = wave.vm if decoded.joins == "vm" else wave.lgkm if decoded.joins else None
                    wave.check_hazard(decoded.reads, decoded.writes, queue, decoded.saved)
                run(wave)
            if block.exit is None:
                position = block.fallthrough
                if position == END:
                    raise Fault("runs past the end of the program")
                continue
            instruction = block.exit
            if block.condition_reads & wave.hazard:
                wave.check_hazard(block.condition_reads, 0, None)
            if budget < 0:
                raise Fault("instruction budget used up: does the kernel loop forever?")
            assert block.condition is not None
            if not block.condition(wave):
                position = block.fallthrough
            elif block.taken >= 0:
                position = block.taken
            elif block.taken == BARRIER:
                wave.pc = block.fallthrough
                return BARRIER, budget
            else:
                wave.done = True
                return END, budget
    except EmulationError as error:
        if instruction is not None:
            error.locate(instruction.line, instruction.text)
        raise
