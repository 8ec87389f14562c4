"""The toy's kernels on the device, which here is the CPU: what the gate checks and the timer times."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from autotune.kernels.reference import layer_reference, stage1_reference, stage2_reference
from autotune.measure.machine import CpuMachine
from autotune.problem.layer import Layer, Stage
from autotune.protocol.runtime import Activations, Launch, LogicalWeights, Output, Path, Step, What
from autotune.results import LayerConfig
from autotune.space.config import Config


class ToyRuntime:
    """See `autotune.protocol.runtime.Runtime`, which says what each method promises."""

    name = "toy_backend:Toy"

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.machine = CpuMachine()  # GpuMachine() for kernels on a GPU

    def kernel_source(self) -> str:
        return "toy"

    def packed_bytes(self, layer: Layer) -> int:
        return layer.experts * layer.model_dim * layer.inter_dim * 3 // 2

    def prepare(self, layer: Layer, weights: LogicalWeights) -> None:
        self._copies = [weights]  # a real backend packs them here

    def grow(self, copies: int) -> None:
        self._copies = self._copies[:1] * copies

    def digest(self) -> int:
        return int(self._copies[0].w1.long().sum() + self._copies[0].w2.long().sum())

    def serves(self, what: What, config: Any, tokens: int) -> bool:
        return True

    def path(self, what: What, config: Any) -> Path:
        return Path(requantised=what is What.LAYER)

    def stage(self, stage: Stage, config: Config, x: Activations, steps: Sequence[Step]) -> list[Launch]:
        def compute(step: Step) -> torch.Tensor:
            w = self._copies[step.copy]
            if stage is Stage.STAGE1:
                return stage1_reference(x.a1, x.a1_scale, w.w1, w.w1_scale, step.ids)
            return stage2_reference(
                x.a2.flatten(0, 1), x.a2_scale.flatten(), w.w2, w.w2_scale, step.ids, step.router
            )

        rows = x.a2.shape[:2].numel() if stage is Stage.STAGE1 else x.hidden.shape[0]
        width = x.a2.shape[2] if stage is Stage.STAGE1 else x.hidden.shape[1]
        return _launches(compute, int(str(config["repeat"])), (rows, width), steps)

    def layer(self, config: LayerConfig, x: Activations, steps: Sequence[Step]) -> list[Launch]:
        def compute(step: Step) -> torch.Tensor:
            w = self._copies[step.copy]
            return layer_reference(x.hidden, w.w1, w.w2, w.w1_scale, w.w2_scale, step.router, step.ids)

        repeat = max(int(str(config.stage1["repeat"])), int(str(config.stage2["repeat"])))
        return _launches(compute, repeat, tuple(x.hidden.shape), steps)


def _launches(
    compute: Callable[[Step], torch.Tensor], repeat: int, shape: tuple[int, ...], steps: Sequence[Step]
) -> list[Launch]:
    """One launch a step, all into one guarded buffer."""
    out = Output.allocate(shape, "cpu")

    def run(step: Step) -> None:
        for _ in range(repeat):
            out.tensor.copy_(compute(step).bfloat16())

    return [Launch(lambda step=step: run(step), out.tensor, guards=out.guards) for step in steps]  # type: ignore[misc]


def make() -> ToyRuntime:
    return ToyRuntime()
