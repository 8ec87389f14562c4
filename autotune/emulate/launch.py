"""Launching a compiled kernel on the CPU: arguments, grid, initial registers, and what comes back.

Example:
    kernel = Kernel.from_asm(compiled.asm["amdgcn"])
    result = kernel.launch([a, b, c, 4, 64], grid=(1, 2, 1), lds_bytes=compiled.metadata.shared)
    result.counts.classes["mfma"]  # executed matrix instructions; the numbers are in c

Initial state: AMDGPU backend guide, "Kernel dispatch" and "Initial kernel execution state", code object V5.
"""

from __future__ import annotations

import gc
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autotune.emulate.blocks import Code, build
from autotune.emulate.errors import NotEmulated
from autotune.emulate.lds import MAX_WAVES, Lds
from autotune.emulate.memory import Memory, Traffic
from autotune.emulate.parser import KernelArgument, KernelInfo, Reg, parse_program
from autotune.emulate.registers import FULL, LANES, ROWS, U32, Wave, lane_mask, register_set
from autotune.emulate.scheduler import Order, run_workgroup
from autotune.emulate.waits import WaitSite

Grid = tuple[int, int, int]
DEFAULT_BUDGET = 20_000_000


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer argument into memory that was mapped beforehand."""

    address: int


Argument = npt.NDArray[Any] | Pointer | int | float | np.generic | bytes | None


@dataclass(slots=True)
class Counts:
    """What the executed workgroups did. Not a time: use it to refuse and to explain.

    Attributes:
        opcodes: executed wave instructions by mnemonic.
        classes: the same by class (see `decoded.Decoded.klass`, plus "branch" and "barrier").
        lines: the same by line of the text.
        traffic: requested bytes and distinct 64-byte segments of "load", "store", "atomic" and "scalar"
            accesses.
        waits: bytes of vector loads in flight at each s_waitcnt with a vmcnt that was reached.
        workgroups: how many were executed.
    """

    opcodes: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    lines: Counter[int] = field(default_factory=Counter)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    waits: list[WaitSite] = field(default_factory=list)
    workgroups: int = 0

    @property
    def instructions(self) -> int:
        """Executed wave instructions."""
        return self.opcodes.total()


@dataclass(slots=True)
class Result:
    """Outcome of a launch: the memory that the kernel worked on, arrays changed in place, and the counts."""

    memory: Memory
    counts: Counts


@dataclass(slots=True)
class Kernel:
    """A kernel whose whole text was parsed and decoded; launches share it and may follow one another.

    Attributes:
        info: its descriptor and metadata.
        code: decoded program.
    """

    info: KernelInfo
    code: Code
    _waves: list[Wave] = field(default_factory=list)

    @classmethod
    def from_asm(cls, text: str, name: str | None = None) -> Kernel:
        """Decodes a kernel.

        Args:
            text: gfx942 assembly as the compiler printed it.
            name: which kernel, if the text has several.

        Raises:
            NotEmulated: no such kernel, or something in the text that this interpreter does not know.
        """
        with _without_collector():
            return cls._decode(text, name)

    @classmethod
    def _decode(cls, text: str, name: str | None) -> Kernel:
        program = parse_program(text)
        if name is None:
            if len(program.kernels) != 1:
                raise NotEmulated(
                    f"{len(program.kernels)} kernels in the text: name one of {sorted(program.kernels)}"
                )
            name = next(iter(program.kernels))
        if name not in program.kernels or name not in program.labels:
            raise NotEmulated(f"no kernel {name} in the text, only {sorted(program.kernels)}")
        info = program.kernels[name]
        _check_descriptor(info)
        return cls(info, build(program))

    @property
    def threads(self) -> int:
        """Work-items of a workgroup, as the metadata limits them."""
        return self.info.note("max_flat_workgroup_size", 256)

    def launch(
        self,
        arguments: Sequence[Argument],
        grid: Grid = (1, 1, 1),
        *,
        threads: int | Grid | None = None,
        lds_bytes: int = 0,
        workgroups: Iterable[Grid] | None = None,
        memory: Memory | None = None,
        order: Order = "forward",
        seed: int = 0,
        check_races: bool = True,
        lds_rules: Literal["strict", "hardware"] = "strict",
        budget: int = DEFAULT_BUDGET,
    ) -> Result:
        """Executes workgroups one after another.

        Args:
            arguments: in the kernel's order. Arrays are mapped and changed in place (read-only ones fault on
                a store), `Pointer` refers to mapped memory, None is a null pointer; integers, floats, numpy
                scalars and bytes (for structures) are passed by value. Trailing pointers may be left out and
                are null.
            grid: workgroups in x, y, z.
            threads: work-items of a workgroup; by default what the metadata says.
            lds_bytes: LDS of a workgroup, at least what the descriptor fixes (Triton: `metadata.shared`).
            workgroups: which ones to execute, in this order; by default all, x fastest.
            memory: where further buffers are mapped; a new one by default.
            order: of the waves between barriers.
            seed: of the poison in registers and LDS and of the shuffled order; results of a correct kernel do
                not depend on it.
            check_races: whether to look for LDS races.
            lds_rules: "strict" faults on an LDS access outside of the allocation and on a read of what
                nothing has written; "hardware" drops or zeroes the first and gives poison for the second, to
                tell a kernel that gets away with it from one whose result depends on it.
            budget: wave instructions for all workgroups together.

        Raises:
            Fault: the kernel is wrong; names the instruction and its line.
            NotEmulated: it needs something that this interpreter lacks.
            ValueError: arguments that do not fit the kernel.
        """
        memory = memory or Memory()
        segment = pack_arguments(
            self.info.arguments, arguments, memory, grid, _three(threads or self.threads)
        )
        size = max(self.info.directive("kernarg_size"), len(segment), 8)
        kernarg = memory.map(_frozen(segment.ljust(size, b"\0")), name="kernel arguments")
        block = _three(threads or self.threads)
        count = -(-block[0] * block[1] * block[2] // LANES)
        if not 1 <= count <= MAX_WAVES:
            raise ValueError(f"{count} waves in a workgroup, 1 to {MAX_WAVES} are possible")
        self._prepare(count)
        random = np.random.default_rng(seed)
        lds_bytes = max(lds_bytes, self.info.directive("group_segment_fixed_size"))
        done = 0
        with np.errstate(all="ignore"):
            for workgroup in product_of(grid) if workgroups is None else workgroups:
                lds = Lds(lds_bytes, random, check_races, lds_rules == "strict")
                for index, wave in enumerate(self._waves[:count]):
                    wave.reset(index, random)
                    wave.memory, wave.lds = memory, lds
                    self._initialise(wave, block, workgroup, kernarg)
                budget = run_workgroup(self._waves[:count], self.code, lds, order, random, budget)
                done += 1
        return Result(memory, self._counts(memory, done))

    def _prepare(self, count: int) -> None:
        """Makes sure of enough wave objects, and clears the statistics of the last launch."""
        scratch = self.info.note("private_segment_fixed_size")
        used = 1  # v0 is always set
        for block in self.code.blocks:
            for registers, *_ in block.body:
                used |= registers
        while len(self._waves) < count:
            self._waves.append(Wave(used & (1 << ROWS) - 1, scratch))
        for block in self.code.blocks:
            block.executions = 0
        for site in self.code.sites:
            site.executions = site.bytes_total = site.bytes_max = 0

    def _initialise(self, wave: Wave, block: Grid, workgroup: Grid, kernarg: int) -> None:
        """Scalar and vector registers at the start of a wave, as the descriptor asks for them."""
        info = self.info
        position = 0

        def put(words: Sequence[int]) -> None:
            nonlocal position
            wave.s[position : position + len(words)] = words
            wave.define(register_set(Reg("s", position, len(words))))
            position += len(words)

        # The order of the user SGPRs is fixed; the ones left out here were refused by _check_descriptor.
        if info.directive("user_sgpr_dispatch_ptr"):
            position += 2
        if info.directive("user_sgpr_queue_ptr"):
            position += 2
        if info.directive("user_sgpr_kernarg_segment_ptr"):
            put([kernarg & 0xFFFF_FFFF, kernarg >> 32])
        if info.directive("user_sgpr_dispatch_id"):
            position += 2
        if info.directive("user_sgpr_private_segment_size"):
            put([info.note("private_segment_fixed_size")])
        # Preloaded arguments stay undefined: the kernel is entered at its start, whose prologue loads them.
        position = info.directive("user_sgpr_count", position)
        for axis, name in enumerate("xyz"):
            if info.directive(f"system_sgpr_workgroup_id_{name}", int(name == "x")):
                put([workgroup[axis]])
        flat = np.arange(LANES, dtype=np.uint32) + np.uint32(LANES * wave.index)
        x, y, z = flat % block[0], flat // block[0] % block[1], flat // (block[0] * block[1])
        # All three work-item ids are packed into v0.
        wave.rows[U32][0][:] = x | y << np.uint32(10) | z << np.uint32(20)
        wave.define(1)
        wave.set_exec(lane_mask(flat < block[0] * block[1] * block[2]) & FULL)
        wave.pc = self.code.entry[info.name]

    def _counts(self, memory: Memory, workgroups: int) -> Counts:
        counts = Counts(traffic=memory.traffic, workgroups=workgroups)
        for block in self.code.blocks:
            if not block.executions:
                continue
            for _, _, decoded, instruction in block.body:
                counts.opcodes[instruction.opcode] += block.executions
                counts.classes[decoded.klass] += block.executions
                counts.lines[instruction.line] += block.executions
            if block.exit is not None:
                counts.opcodes[block.exit.opcode] += block.executions
                counts.classes["barrier" if block.exit.opcode == "s_barrier" else "branch"] += (
                    block.executions
                )
                counts.lines[block.exit.line] += block.executions
        counts.waits = [site for site in self.code.sites if site.executions]
        return counts


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pauses the garbage collector, which would walk the objects of a decoded program again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def product_of(grid: Grid) -> Iterable[Grid]:
    """All workgroup ids of a grid, x fastest."""
    for z, y, x in product(*(range(extent) for extent in reversed(grid))):
        yield x, y, z


def _three(threads: int | Grid) -> Grid:
    return (threads, 1, 1) if isinstance(threads, int) else threads


def _frozen(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)  # of bytes, hence read-only


def _check_descriptor(info: KernelInfo) -> None:
    """Refuses modes whose arithmetic or initial state differs from what is emulated."""
    for name, wanted in (
        ("float_round_mode_32", 0), ("float_round_mode_16_64", 0), ("float_denorm_mode_32", 3),
        ("float_denorm_mode_16_64", 3), ("ieee_mode", 1), ("dx10_clamp", 1), ("fp16_overflow", 0),
        ("user_sgpr_private_segment_buffer", 0), ("user_sgpr_flat_scratch_init", 0),
        ("uses_dynamic_stack", 0),
        ("system_sgpr_workgroup_info", 0), ("tg_split", 0),
    ):  # fmt: skip
        given = info.directive(name, wanted)
        if given != wanted:
            raise NotEmulated(f".amdhsa_{name} {given} of kernel {info.name}, only {wanted} is emulated")


def pack_arguments(
    layout: Sequence[KernelArgument], arguments: Sequence[Argument], memory: Memory, grid: Grid, block: Grid
) -> bytes:
    """Builds the kernarg segment; arrays are mapped into `memory`.

    Raises:
        ValueError: too many arguments, or one that does not fit its slot.
    """
    visible = [slot for slot in layout if not slot.kind.startswith("hidden_")]
    if len(arguments) > len(visible):
        raise ValueError(f"{len(arguments)} arguments for a kernel that takes {len(visible)}")
    missing = [slot for slot in visible[len(arguments) :] if slot.kind == "by_value"]
    if missing:
        raise ValueError(f"{len(arguments)} arguments for a kernel that takes {len(visible)}")
    segment = bytearray(max((slot.offset + slot.size for slot in layout), default=0))
    for number, (slot, value) in enumerate(zip(visible, arguments, strict=False)):
        raw = _pack(slot, value, memory, number)
        segment[slot.offset : slot.offset + slot.size] = raw
    hidden = {f"hidden_block_count_{a}": grid[i] for i, a in enumerate("xyz")}
    hidden |= {f"hidden_group_size_{a}": block[i] for i, a in enumerate("xyz")}
    hidden["hidden_grid_dims"] = 3
    for slot in layout:
        if slot.kind in hidden:
            segment[slot.offset : slot.offset + slot.size] = hidden[slot.kind].to_bytes(slot.size, "little")
    return bytes(segment)


def _pack(slot: KernelArgument, value: Argument, memory: Memory, number: int) -> bytes:
    if slot.kind == "global_buffer":
        if isinstance(value, np.ndarray):
            return memory.map(value, name=f"argument {number}").to_bytes(8, "little")
        if value is None or isinstance(value, Pointer):
            return (value.address if isinstance(value, Pointer) else 0).to_bytes(8, "little")
        raise ValueError(f"argument {number} is a pointer: give an array, a Pointer or None, not {value!r}")
    if slot.kind != "by_value":
        raise ValueError(f"argument {number} of kind {slot.kind} cannot be passed")
    if isinstance(value, bytes):
        raw = value
    elif isinstance(value, np.generic):
        raw = value.tobytes()
    elif isinstance(value, float):
        raw = struct.pack("<f" if slot.size == 4 else "<d", value)
    elif isinstance(value, int):
        raw = (value & ((1 << 8 * slot.size) - 1)).to_bytes(slot.size, "little")
    elif isinstance(value, Pointer):
        raw = value.address.to_bytes(8, "little")
    else:
        raise ValueError(f"argument {number} is passed by value: give a number, not {type(value).__name__}")
    if len(raw) != slot.size:
        raise ValueError(f"argument {number} has {len(raw)} bytes, the kernel takes {slot.size}")
    return raw
