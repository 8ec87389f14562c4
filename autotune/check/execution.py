"""One case of a check: a kernel's buffers, the workgroups to run, and the judgement of what they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from autotune.check.executed import Tally
from autotune.check.judge import Judge
from autotune.check.operands import Array
from autotune.emulate import Kernel, Memory, Order, Pointer

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
        judge: compares what they left; raises Incorrect.
        lds_rules: see `Kernel.launch`.
    """

    name: str
    memory: Memory
    arguments: Sequence[Argument]
    grid: Grid
    workgroups: Sequence[Grid]
    output: Array
    judge: Callable[[Judge], None]
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
