"""Our Triton runtime with two knobs more, for proofs: what they change is known exactly.

- `twin` changes nothing: configs that differ in it alone are one program.
- `pad_us` makes each launch slower by so many thousandths of a microsecond: a spin kernel at the end of a
  pass takes as long as all of its launches together are to lose.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autotune.backends.triton.runtime import TritonRuntime
from autotune.kernels.spec import KernelSpec
from autotune.measure.machine import GpuMachine
from autotune.problem.layer import Stage
from autotune.protocol.runtime import Activations, Launch, Step
from autotune.space.config import Config

_OWN = ("twin", "pad_us")


class PaddedTriton(TritonRuntime):
    """See the module."""

    def __init__(self) -> None:
        super().__init__(GpuMachine(), interpret=False)
        self._cycles_a_us = _spin_rate()

    def stage(self, stage: Stage, config: Config, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        launches = super().stage(stage, config, inputs, steps)
        pad = config.get("pad_us")
        if not isinstance(pad, int) or len(steps) == 1:
            return launches
        last, cycles = launches[-1], round(len(steps) * pad / 1000 * self._cycles_a_us)

        def run() -> None:
            last.run()
            _spin(cycles)

        return [*launches[:-1], replace(last, run=run)]

    def _spec(self, stage: Stage, config: Config) -> KernelSpec:
        """A stage's kernel, of a stage's launch as of a layer's, without the knobs that it does not know."""
        return super()._spec(stage, Config({k: v for k, v in config.items() if k not in _OWN}))


def _spin(cycles: int) -> None:
    import torch

    sleep: Any = torch.cuda._sleep
    sleep(cycles)


def _spin_rate() -> float:
    """Cycles that a spin kernel takes for a microsecond more, by the difference of two lengths."""
    import torch

    make: Any = torch.cuda.Event
    times = []
    for cycles in (1_000_000, 1_000_000, 3_000_000):  # the first warms up
        first, last = make(enable_timing=True), make(enable_timing=True)
        first.record()
        _spin(cycles)
        last.record()
        last.synchronize()
        times.append(1e3 * first.elapsed_time(last))
    return float(2_000_000 / (times[2] - times[1]))


def make() -> PaddedTriton:
    return PaddedTriton()
