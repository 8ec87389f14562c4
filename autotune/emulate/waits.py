"""s_waitcnt, and the queues of outstanding memory instructions that it empties.

vmcnt counts vector memory loads, stores and atomics, which return in the order of issue. lgkmcnt counts LDS
instructions, in order among themselves, and scalar loads, in any order; so with scalar loads outstanding only
lgkmcnt(0) says that one of them is back, and any of them may have returned before the LDS ones. FLAT
instructions count in both and are ordered in neither. CDNA3 ISA guide, "Manually inserted wait states and
S_WAITCNT".
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from autotune.emulate.decoded import Decoded, expect
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import Imm, Instruction, Symbol
from autotune.emulate.registers import LdsAccess, Outstanding, Wave

VM_LIMIT, LGKM_LIMIT = 63, 15
_COUNTER = re.compile(r"^(vmcnt|lgkmcnt|expcnt)\((\d+)\)$")


@dataclass(slots=True)
class WaitSite:
    """What was in flight when one s_waitcnt with a vmcnt was reached.

    Attributes:
        line: of the instruction.
        executions: how many times a wave reached it.
        bytes_total, bytes_max: bytes of vector loads outstanding, summed over the executions and the largest.
    """

    line: int
    executions: int = 0
    bytes_total: int = 0
    bytes_max: int = 0


def issue(
    wave: Wave, *, vm: bool = False, lgkm: bool = False, writes: int = 0, nbytes: int = 0, line: int = 0,
    ordered: bool = True, lds: LdsAccess | None = None,
) -> None:  # fmt: skip
    """Puts a memory instruction into the queues of its counters.

    A counter that is at its limit stalls the issue until the oldest instruction is back.
    """
    entry = Outstanding(writes, nbytes, line, ordered, lds)
    if vm:
        if len(wave.vm) >= VM_LIMIT:
            retire(wave, wave.vm, VM_LIMIT - 1)
        wave.vm.append(entry)
    if lgkm:
        if len(wave.lgkm) >= LGKM_LIMIT:
            retire(wave, wave.lgkm, LGKM_LIMIT - 1)
        wave.lgkm.append(entry)
    if writes:
        wave.pending |= writes
        wave.hazard |= writes


def retire(wave: Wave, queue: deque[Outstanding], limit: int) -> None:
    """Removes what has certainly returned once the counter of `queue` is at most `limit`."""
    if len(queue) <= limit:
        return
    if limit == 0:
        queue.clear()
    else:
        in_order = sum(entry.ordered for entry in queue)
        certain = in_order - limit
        kept = deque[Outstanding]()
        for entry in queue:
            if entry.ordered and certain > 0:
                certain -= 1
            else:
                kept.append(entry)
        queue.clear()
        queue.extend(kept)
    pending = 0
    for entry in wave.vm:
        pending |= entry.writes
    for entry in wave.lgkm:
        pending |= entry.writes
    wave.pending = pending
    wave.hazard = pending | wave.undefined


def decode_waitcnt(instruction: Instruction, sites: list[WaitSite]) -> Decoded:
    """s_waitcnt with its counters by name or as one encoded number (vmcnt in bits 15:14 and 3:0, lgkmcnt
    11:8).
    """
    vm = lgkm = -1
    for operand in instruction.operands:
        base = operand.base
        if isinstance(base, Imm) and isinstance(base.value, int) and len(instruction.operands) == 1:
            vm = base.value & 15 | base.value >> 10 & 0x30
            lgkm = base.value >> 8 & 15
            continue
        match = _COUNTER.match(base.name) if isinstance(base, Symbol) else None
        if match is None:
            raise NotEmulated(f"wait on {base}")
        if match[1] == "vmcnt":
            vm = int(match[2])
        elif match[1] == "lgkmcnt":
            lgkm = int(match[2])
        # expcnt counts exports and GDS, which compute kernels do not use.
    expect(instruction, 1, 2, 3)
    site = WaitSite(instruction.line)
    if vm >= 0:
        sites.append(site)

    def run(wave: Wave) -> None:
        if vm >= 0:
            in_flight = sum(entry.nbytes for entry in wave.vm)
            site.executions += 1
            site.bytes_total += in_flight
            if in_flight > site.bytes_max:
                site.bytes_max = in_flight
            retire(wave, wave.vm, vm)
        if lgkm >= 0:
            retire(wave, wave.lgkm, lgkm)

    return Decoded(run, "wait")
