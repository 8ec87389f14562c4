"""The registers of one wave, and which of them may be read.

Layout: VGPRs and AccVGPRs are one `uint32[512, 64]` array, row `i` for `v<i>` and row `256 + i` for `a<i>`.
Scalars are Python integers at their operand encodings (s0..s101 at 0..101, VCC at 106, M0 at 124); EXEC is
kept apart because every vector instruction needs it as a lane mask. CDNA3 ISA guide, chapter "Kernel state".

Registers in sets are bits of one integer: bit `i` for `v<i>`, `256 + i` for `a<i>`, `512 + i` for scalar `i`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.emulate.errors import Fault, NotEmulated
from autotune.emulate.parser import EXEC, M0, VCC, Reg, RegisterFile

if TYPE_CHECKING:
    from autotune.emulate.lds import Lds
    from autotune.emulate.memory import Memory

Array = npt.NDArray[Any]
LANES = 64
FULL = (1 << LANES) - 1
MASK32 = 0xFFFF_FFFF
ROWS = 512
_FILE_START: dict[RegisterFile, int] = {"v": 0, "a": 256, "s": ROWS}

# Ways to look at one register as 64 values: whole, its low and its high 16-bit half, its four bytes from B8
# on.
U32, I32, F32, U16, I16, F16, U16H, I16H, F16H, B8 = range(10)


def views(row: Array) -> tuple[Array, ...]:
    """The typed views, indexed by `U32` .. `B8 + 3`, of one `uint32[64]` row."""
    halves, octets = row.view(np.uint16), row.view(np.uint8)
    low, high = halves[0::2], halves[1::2]
    wide = (row, row.view(np.int32), row.view(np.float32))
    narrow = (half.view(t) for half in (low, high) for t in (np.uint16, np.int16, np.float16))
    return (*wide, *narrow, *(octets[i::4] for i in range(4)))


@lru_cache(maxsize=4096)
def splat(value: int) -> tuple[Array, ...]:
    """The views of a row whose 64 lanes all hold `value` (32 bits); not to be written to."""
    row = np.full(LANES, value & MASK32, np.uint32)
    row.flags.writeable = False
    return views(row)


@lru_cache(maxsize=4096)
def lanes(mask: int) -> Array:
    """`bool[64]` from a 64-bit lane mask; not to be written to."""
    bits = np.unpackbits(np.frombuffer(mask.to_bytes(8, "little"), np.uint8), bitorder="little").view(
        np.bool_
    )
    bits.flags.writeable = False
    return bits


def lane_mask(active: Array) -> int:
    """64-bit lane mask from `bool[64]`."""
    return int.from_bytes(np.packbits(active, bitorder="little").tobytes(), "little")


def register_set(reg: Reg) -> int:
    """The registers of `reg` as a set (see the module's head)."""
    return ((1 << reg.count) - 1) << (_FILE_START[reg.file] + reg.index)


def register_names(registers: int) -> str:
    """Names of the registers in a set, for messages: `v3, s[4]` style, at most four of them."""
    names = []
    index = 0
    while registers >> index:
        if registers >> index & 1:
            if index < 256:
                names.append(f"v{index}")
            elif index < ROWS:
                names.append(f"a{index - 256}")
            else:
                scalar = index - ROWS
                special = {VCC: "vcc_lo", VCC + 1: "vcc_hi", M0: "m0", EXEC: "exec_lo", EXEC + 1: "exec_hi"}
                names.append(special.get(scalar, f"s{scalar}"))
        index += 1
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def row_of(reg: Reg) -> int:
    """Row of the register array at which vector register `reg` starts.

    Raises:
        NotEmulated: a scalar register, or past the end of its file.
    """
    if reg.file == "s" or reg.index + reg.count > 256:
        raise NotEmulated(f"{reg.file}{reg.index} (+{reg.count}) where a vector register is needed")
    return _FILE_START[reg.file] + reg.index


@dataclass(frozen=True, slots=True)
class LdsAccess:
    """Bytes of LDS that an instruction touches: `size` bytes at each of `starts` (int64[n])."""

    starts: Array
    size: int
    write: bool


@dataclass(slots=True)
class Outstanding:
    """One memory instruction that no s_waitcnt has covered yet.

    Attributes:
        writes: registers that it will write, as a set.
        nbytes: bytes that it requested.
        line: of its instruction.
        ordered: returns in order with the others of its counter (false for scalar loads and FLAT).
        lds: what it does to LDS, if anything.
    """

    writes: int
    nbytes: int
    line: int
    ordered: bool
    lds: LdsAccess | None = None


class Wave:
    """Registers, flags and outstanding memory instructions of one wave of 64 lanes.

    Attributes:
        v: uint32[512, 64], all VGPRs and AccVGPRs.
        rows: rows[kind][row] is a typed view (kind `U32` .. `B8 + 3`) of one row.
        s: scalars by operand encoding, each 0 .. 2**32 - 1 (EXEC's entries are unused).
        exec, mask, full: EXEC as an integer, as `bool[64]`, and whether all lanes are active.
        scc: scalar condition code, 0 or 1.
        saturate: MODE.FP16_OVFL.
        undefined: registers never written, as a set.
        pending: registers that an outstanding load will write, as a set.
        hazard: undefined | pending, the only thing that the fast path looks at.
        vm, lgkm: outstanding instructions of the two counters, oldest first.
        scratch: uint8[bytes a lane, 64], private memory.
        pc: index of the basic block to run next.
        index: number of the wave in its workgroup.
        memory, lds: what its memory instructions work on; the launcher sets them.
    """

    __slots__ = (
        "done", "exec", "full", "hazard", "height", "index", "lds", "lgkm", "mask", "memory", "pc", "pending",
        "rows", "s", "saturate", "scc", "scratch", "undefined", "v", "vm",
    )  # fmt: skip
    memory: Memory
    lds: Lds

    def __init__(self, used: int = (1 << ROWS) - 1, scratch_bytes: int = 0) -> None:
        """`used` are the vector registers that the program names, as a set; only these have views in
        `rows`.
        """
        self.v = np.zeros((ROWS, LANES), np.uint32)
        self.rows: tuple[list[Array], ...] = tuple([[] for _ in range(B8 + 4)])
        unused = views(np.zeros(LANES, np.uint32))
        for row in range(ROWS):
            for column, view in zip(
                self.rows, views(self.v[row]) if used >> row & 1 else unused, strict=True
            ):
                column.append(view)
        self.height = (used & (1 << ROWS) - 1).bit_length()
        self.scratch = np.zeros((scratch_bytes, LANES), np.uint8)
        self.vm: deque[Outstanding] = deque()
        self.lgkm: deque[Outstanding] = deque()
        self.reset(0)

    def reset(self, index: int, poison: np.random.Generator | None = None) -> None:
        """Makes it a new wave: nothing is defined but M0 and EXEC; vector registers hold `poison` or
        zeros.
        """
        if poison is None:
            self.v[:] = 0
        else:
            self.v[: len(self.rows[U32])] = poison.integers(
                0, 1 << 32, (len(self.rows[U32]), LANES), np.uint32
            )
        self.s = [0xDEAD_0000 + i for i in range(128)]
        self.index = index
        self.scratch[:] = 0xA5
        self.scc = 0
        self.saturate = False
        self.pc = 0
        self.done = False
        self.pending = 0
        always = (1 << M0) | (3 << EXEC)
        self.undefined = self.hazard = ((1 << (ROWS + 128)) - 1) & ~(always << ROWS)
        self.vm.clear()
        self.lgkm.clear()
        self.set_exec(FULL)

    def set_exec(self, value: int) -> None:
        """Writes EXEC."""
        self.exec = value
        self.full = value == FULL
        self.mask = lanes(value)

    def define(self, registers: int) -> None:
        """Marks registers as written."""
        self.undefined &= ~registers
        self.hazard = self.undefined | self.pending

    def first_lane(self) -> int:
        """Lowest active lane, 0 if there is none (what v_readfirstlane_b32 reads)."""
        return (self.exec & -self.exec).bit_length() - 1 if self.exec else 0

    def check_hazard(
        self, reads: int, writes: int, ordered: deque[Outstanding] | None, saved: int = 0
    ) -> None:
        """The slow path before an instruction that touches a register in `hazard`.

        Args:
            reads, writes: the instruction's registers, as sets.
            ordered: the queue that the instruction itself joins with in-order return, if any: a load may
                overwrite the register of an older load of its own kind, since they return in order.
            saved: those of `reads` that may be undefined.

        Raises:
            Fault: it reads a register that nothing wrote, or touches one whose load no s_waitcnt has covered.
        """
        unwritten = reads & self.undefined & ~saved
        if unwritten:
            raise Fault(f"reads {register_names(unwritten)}, which nothing has written")
        conflict = (reads | writes) & self.pending
        if conflict:
            for entry in (*self.vm, *self.lgkm):
                in_order = ordered is not None and entry.ordered and any(entry is e for e in ordered)
                clash = entry.writes & (reads if in_order else reads | writes)
                if clash:
                    early = register_names(clash)
                    raise Fault(f"touches {early} before an s_waitcnt covers the load of line {entry.line}")
        self.define(writes)

    # Scalar access. Encodings 126 and 127 are EXEC, which lives apart.

    def get32(self, index: int) -> int:
        """Scalar register or half of EXEC, 0 .. 2**32 - 1."""
        if index >= EXEC:
            return self.exec >> 32 * (index - EXEC) & MASK32
        return self.s[index]

    def get64(self, index: int) -> int:
        """Scalar register pair or EXEC, 0 .. 2**64 - 1."""
        if index == EXEC:
            return self.exec
        return self.s[index] | self.s[index + 1] << 32

    def set32(self, index: int, value: int) -> None:
        """Writes a scalar register or half of EXEC; bits above 32 are dropped."""
        if index >= EXEC:
            shift = 32 * (index - EXEC)
            self.set_exec(self.exec & ~(MASK32 << shift) | (value & MASK32) << shift)
        else:
            self.s[index] = value & MASK32

    def set64(self, index: int, value: int) -> None:
        """Writes a scalar register pair or EXEC; bits above 64 are dropped."""
        if index == EXEC:
            self.set_exec(value & FULL)
        else:
            self.s[index] = value & MASK32
            self.s[index + 1] = value >> 32 & MASK32
