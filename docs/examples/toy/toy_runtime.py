"""The toy's kernels on the device, which here is the CPU: what the gate checks and the timer times."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from toy import WEIGHTS, Toy

from autotune.kernels.reference import layer_reference, stage1_reference, stage2_reference
from autotune.measure.machine import CpuMachine
from autotune.problem.layer import Layer, Stage
from autotune.protocol.runtime import Activations, Launch, LogicalWeights, Output, Path, Step, Subject, What
from autotune.results import LayerConfig
from autotune.space.config import Config


class ToyRuntime:
    """See `autotune.protocol.runtime.Runtime`, which says what each method promises."""

    name = "toy"

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.machine = CpuMachine()  # GpuMachine() for kernels on a GPU

    def kernel_source(self) -> str:
        return Toy().source_digest()  # equal, or `autotune status` calls every winner stale

    def packed_bytes(self, layer: Layer) -> int:
        return WEIGHTS.copy(layer)

    def prepare(self, layer: Layer, weights: LogicalWeights) -> None:
        self._copies = [weights]  # a real backend packs them here

    def grow(self, copies: int) -> None:
        self._copies = self._copies[:1] * copies  # and makes real copies, so that they are cold

    def digest(self) -> int:
        return int(self._copies[0].w1.long().sum() + self._copies[0].w2.long().sum())

    def serves(self, what: What, config: Subject, tokens: int) -> bool:
        return True

    def path(self, what: What, config: Subject) -> Path:
        return Path(requantised=what is What.LAYER)

    def stage(self, stage: Stage, config: Config, x: Activations, steps: Sequence[Step]) -> list[Launch]:
        def compute(step: Step) -> torch.Tensor:
            w = self._copies[step.copy]
            if stage is Stage.STAGE1:
                return stage1_reference(x.a1, x.a1_scale, w.w1, w.w1_scale, step.ids)
            a2, a2_scale = x.a2.flatten(0, 1), x.a2_scale.flatten()
            return stage2_reference(a2, a2_scale, w.w2, w.w2_scale, step.ids, step.router)

        slots, width = x.a2.shape[:2].numel(), x.a2.shape[2]
        shape = (slots, width) if stage is Stage.STAGE1 else tuple(x.hidden.shape)
        return _launches(compute, [config], shape, steps)

    def layer(self, config: LayerConfig, x: Activations, steps: Sequence[Step]) -> list[Launch]:
        def compute(step: Step) -> torch.Tensor:
            w = self._copies[step.copy]
            return layer_reference(x.hidden, w.w1, w.w2, w.w1_scale, w.w2_scale, step.router, step.ids)

        return _launches(compute, [config.stage1, config.stage2], tuple(x.hidden.shape), steps)


def _launches(
    compute: Callable[[Step], torch.Tensor],
    configs: Sequence[Config],
    shape: tuple[int, ...],
    steps: Sequence[Step],
) -> list[Launch]:
    """One launch a step, all into one guarded buffer."""
    out = Output.allocate(shape, "cpu")

    def run(step: Step) -> None:
        for _ in range(max(int(str(config["repeat"])) for config in configs)):
            out.tensor.copy_(compute(step).bfloat16())

    return [Launch(partial(run, step), out.tensor, guards=out.guards) for step in steps]


def make() -> ToyRuntime:
    return ToyRuntime()
