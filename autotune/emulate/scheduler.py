"""The waves of one workgroup, run one at a time from barrier to barrier.

Hardware promises no order between barriers, so a correct kernel gives the same result in any: forward,
reverse, or shuffled anew between any two barriers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from autotune.emulate.blocks import END, Code, run_wave
from autotune.emulate.errors import Fault
from autotune.emulate.lds import Lds
from autotune.emulate.registers import Wave

Order = Literal["forward", "reverse", "shuffled"]


def run_workgroup(
    waves: Sequence[Wave], code: Code, lds: Lds, order: Order, shuffle: np.random.Generator, budget: int
) -> int:
    """Runs all waves of a workgroup to their end and returns what is left of the budget.

    A barrier is met when every wave that has not ended waits at one.

    Args:
        waves: freshly set up, `pc` at the kernel's entry.
        code: the program.
        lds: the workgroup's shared memory.
        order: of the waves between barriers.
        shuffle: source of the shuffled order.
        budget: wave instructions for the whole workgroup.

    Raises:
        Fault: from a wave, or the budget is used up.
        NotEmulated: from a wave.
    """
    alive = list(waves)
    while alive:
        if order == "reverse":
            turn = alive[::-1]
        elif order == "shuffled":
            turn = [alive[i] for i in shuffle.permutation(len(alive))]
        else:
            turn = alive
        for wave in turn:
            stop, budget = run_wave(wave, code, budget)
            if stop == END:
                wave.done = True
        alive = [wave for wave in alive if not wave.done]
        if any(wave.pc == END for wave in alive):
            raise Fault("a barrier is the last instruction of the program")
        lds.barrier(alive)
    return budget
