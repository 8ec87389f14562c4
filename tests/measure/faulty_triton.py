"""Our Triton runtime with faults that only a GPU has; a config's extra knob `fault` says which."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import triton
import triton.language as tl

from autotune.backends.triton.runtime import TritonRuntime
from autotune.measure.machine import GpuMachine
from autotune.problem.layer import Stage
from autotune.protocol.runtime import Activations, Launch, Step
from autotune.space.config import Config


@triton.jit
def _stores_far_outside(out):
    # A terabyte away: no allocation is there.
    tl.store(out + (1 << 40) + tl.arange(0, 16), tl.zeros((16,), tl.bfloat16))


@triton.jit
def _waits_for_what_never_comes(flag):
    while tl.atomic_add(flag, 0) == 0:
        pass


class FaultyTriton(TritonRuntime):
    """See the module."""

    def stage(self, stage: Stage, config: Config, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        fault = config.get("fault")
        plain = Config({name: value for name, value in config.items() if name != "fault"})
        launches = super().stage(stage, plain, inputs, steps)
        if fault is None:
            return launches
        return [replace(launch, run=_spoiled(str(fault), launch)) for launch in launches]


def _spoiled(fault: str, launch: Launch) -> Callable[[], None]:
    import torch

    output: Any = launch.output

    def run() -> None:
        launch.run()
        if fault == "illegal_address":
            _stores_far_outside[(1,)](output)
        if fault == "endless":
            _waits_for_what_never_comes[(1,)](torch.zeros(1, dtype=torch.int32, device=output.device))
        if fault == "out_of_memory":
            torch.empty(1 << 50, dtype=torch.int8, device=output.device)
        if fault == "wrong_tile":
            output.view(-1)[:16] *= 1.5

    return run


def make() -> FaultyTriton:
    return FaultyTriton(GpuMachine(), interpret=False)
