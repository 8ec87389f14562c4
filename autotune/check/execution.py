"""A case of a check, ready to run; what its execution did; and the checker that a backend brings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from autotune.check.compare import OutputErrors
from autotune.check.operands import Array
from autotune.emulate import Counts, Kernel, Memory, Order, Pointer
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage
from autotune.protocol.backend import Lists
from autotune.protocol.runtime import Path
from autotune.results import CompilerVersion
from autotune.space.config import Config

Grid = tuple[int, int, int]
Argument = Pointer | int | float | bytes
ORDERS: tuple[Order, ...] = get_args(Order)
"""Of the waves of a workgroup between barriers: forward, reverse, shuffled."""


@dataclass(frozen=True)
class Execution:
    """A case, ready to run.

    Attributes:
        arguments: in the kernel's order; everything they point at is in `memory`.
        workgroups: which of the grid to run, in this order.
        output: bfloat16 bits, uint16: where the kernel writes.
        judge: compares what they left; raises WrongOutput.
        lds_rules: see `Kernel.launch`.
    """

    name: str
    memory: Memory
    arguments: Sequence[Argument]
    grid: Grid
    workgroups: Sequence[Grid]
    output: Array
    judge: Callable[[OutputErrors], None]
    lds_rules: Literal["strict", "hardware"] = "strict"

    def run(self, kernel: Kernel, lds_bytes: int, turn: Iterator[int], tally: Tally) -> None:
        """Runs the workgroups, each with the next order of waves and a poison of its own.

        Args:
            turn: goes on from case to case, so that few workgroups still see all orders.
        """
        for workgroup in self.workgroups:
            seed = next(turn)
            result = kernel.launch(
                self.arguments,
                self.grid,
                lds_bytes=lds_bytes,
                workgroups=[workgroup],
                memory=self.memory,
                order=ORDERS[seed % len(ORDERS)],
                seed=seed,
                lds_rules=self.lds_rules,
            )
            tally.add(result.counts)
        tally.add_traffic(self.memory)


@dataclass(frozen=True)
class Beside:
    """A launch of a layer beside its two GEMMs, with its cases.

    Attributes:
        name: of the kernel.
        text: gfx942 assembly.
        lds_bytes: of a workgroup, what the launch adds included.
        cases: as `Checker.executions` makes them.
    """

    name: str
    text: str
    lds_bytes: int
    binary_hash: str
    cases: Callable[[Kernel], Iterable[Execution]]


@runtime_checkable
class Checker(Lists, Protocol):
    """What a backend registers as its `checker`: `module:class`, made without arguments."""

    def compiler(self) -> CompilerVersion:
        """The compiler that makes the binaries here: another version's are judged anew.

        Raises:
            UserError: it is not installed.
        """

    def executions(
        self, layer: Layer, tokens: int, stage: Stage, config: Config, kernel: Kernel, seed: int
    ) -> Iterable[Execution]:
        """The cases of a binary of the listing; see `autotune.check` for what a sample should hold.

        Args:
            seed: of operands and routings.

        Raises:
            WrongOutput: what is wrong shows without an execution.
        """

    def path(self, stage: Stage, config: Config, layer: Layer) -> Path:
        """The roundings between exact accumulators and the output; here the output is rounded once."""
        return Path()

    def beside(
        self, layer: Layer, tokens: int, config: Config, device: Device, seed: int
    ) -> Iterable[Beside]:
        """What a layer launches beside the two GEMMs, in order; here nothing that the backend compiles.

        Args:
            config: stage 1's.
        """
        return ()


@dataclass(frozen=True)
class Wait:
    """One s_waitcnt of the text and the vector loads in flight when waves came to it.

    Attributes:
        line: of the assembly, from 1.
        reached: how many times a wave did.
        mean_bytes, max_bytes: requested by loads that had not been waited for, a wave.
    """

    line: int
    reached: int
    mean_bytes: float
    max_bytes: int


@dataclass(frozen=True)
class Executed:
    """What the sampled workgroups executed. Not a time.

    Attributes:
        workgroups: that were executed; everything below is their sum.
        waves: of a workgroup.
        classes: executed wave instructions by class.
        traffic: by `load`, `store`, `atomic` and `scalar`: instructions, bytes that active lanes requested,
            and distinct 64-byte segments an instruction, summed.
        waits: every s_waitcnt with a vmcnt that was reached.
    """

    workgroups: int
    waves: int
    classes: Mapping[str, int]
    traffic: Mapping[str, tuple[int, int, int]]
    waits: tuple[Wait, ...]

    @property
    def load_coalescing(self) -> float | None:
        """Requested bytes of loads / (64 * segments): 1 where every byte fetched is asked for, once."""
        _, nbytes, segments = self.traffic.get("load", (0, 0, 0))
        return nbytes / (64 * segments) if segments else None

    @property
    def bytes_in_flight(self) -> float:
        """Bytes of loads in flight a wave, where it waits for them.

        Waits at which nothing is outstanding stand between phases and say nothing of the loop: a wait counts
        by what is in flight there.
        """
        total = sum(wait.reached * wait.mean_bytes for wait in self.waits)
        return sum(wait.reached * wait.mean_bytes**2 for wait in self.waits) / total if total else 0.0

    def summary(self) -> dict[str, Any]:
        """JSON values for the store and for people; of the waits their number and bytes in flight."""
        return {
            "workgroups": self.workgroups,
            "waves": self.waves,
            "classes": dict(self.classes),
            "traffic": {
                kind: {"instructions": count, "bytes": nbytes, "segments": segments}
                for kind, (count, nbytes, segments) in self.traffic.items()
                if count
            },
            "load_coalescing": None if self.load_coalescing is None else round(self.load_coalescing, 4),
            "waits": {
                "reached": sum(wait.reached for wait in self.waits),
                "bytes_in_flight": round(self.bytes_in_flight, 1),
                "max_bytes": max((wait.max_bytes for wait in self.waits), default=0),
            },
        }


@dataclass
class Tally:
    """Adds up what the launches of one kernel executed."""

    workgroups: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    traffic: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _waits: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, counts: Counts) -> None:
        """Adds a launch, before the kernel's next one clears its counters; its traffic is the memory's."""
        self.workgroups += counts.workgroups
        self.classes.update(counts.classes)
        for site in counts.waits:
            reached, total, most = self._waits.get(site.line, (0, 0, 0))
            self._waits[site.line] = (
                reached + site.executions,
                total + site.bytes_total,
                max(most, site.bytes_max),
            )

    def add_traffic(self, memory: Memory) -> None:
        """Adds what a memory has seen in all its launches."""
        for kind, seen in memory.traffic.items():
            instructions, nbytes, segments = self.traffic.get(kind, (0, 0, 0))
            self.traffic[kind] = (
                instructions + seen.instructions,
                nbytes + seen.nbytes,
                segments + seen.segments,
            )

    def executed(self, waves: int) -> Executed:
        """The sum, of workgroups of `waves` waves."""
        waits = (
            Wait(line, reached, total / reached, most)
            for line, (reached, total, most) in sorted(self._waits.items())
        )
        classes = dict(sorted(self.classes.items()))
        return Executed(self.workgroups, waves, classes, self.traffic, tuple(waits))
