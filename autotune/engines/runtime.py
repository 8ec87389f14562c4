"""An engine's own Triton fused MoE on the device, for the measure worker.

The experts are made from the same INT4 weights as every backend's, in the layout that the engine's kernels
take (`autotune.engines.weights`). Where those multiply quantised activations, a stage gets them quantised,
and a layer quantises as the engine does: INT8 by its own Triton kernel, FP8 by one of ours, as the engine's
is a compiled extension. The sort, another in both, is made by torch beforehand and is not timed. SGLang's
silu_and_mul, one more, is `act_and_mul_triton` of its kernels' file; vLLM's, and its sum over slots, are
`autotune.engines.glue`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from autotune.engines.backend import EngineBackend
from autotune.engines.calls import EngineCalls, Sorted, make_order
from autotune.engines.kernels import kernel_digest, load_engine
from autotune.engines.moe import entry
from autotune.engines.rows import Row
from autotune.engines.weights import EngineWeights, engine_weights
from autotune.kernels.formats import PEAKS, Format
from autotune.measure.copies import HoldsCopies
from autotune.measure.machine import CpuMachine, GpuMachine
from autotune.problem.layer import Stage, gemm_dims
from autotune.protocol.registry import load_backend
from autotune.protocol.runtime import (
    Activations,
    Launch,
    LogicalWeights,
    Machine,
    Output,
    Path,
    Step,
    Subject,
    What,
)
from autotune.results import LayerConfig
from autotune.space.config import Config

if TYPE_CHECKING:
    import torch


_NARROW = ("sm_89", "sm_90")
"""GPUs whose FP8 matrix instructions keep some 13 bits below the largest addend, float32 or not."""

_NARROW_SUMS = 1.2e-5
"""What that costs: relative error of a sum, by the root of K. On an H100, K = 7168: 1.0e-3."""


def make_runtime(name: str) -> "EngineRuntime":
    """A backend's runtime on the GPU; on the CPU where Triton interprets (`TRITON_INTERPRET=1`: tests)."""
    backend = load_backend(name)
    assert isinstance(backend, EngineBackend), name
    row = backend.row
    if os.environ.get("TRITON_INTERPRET") == "1":
        arch = "gfx950"  # AMD: the interpreter has no programmatic dependent launch
        return EngineRuntime(row, CpuMachine(), load_engine(row, "hip", arch), arch, interpret=True)
    machine = GpuMachine()
    arch = machine.fingerprint(row.engine.name, "").arch
    calls = load_engine(row, "hip" if arch.startswith("gfx") else "cuda", arch)
    return EngineRuntime(row, machine, calls, arch, interpret=False)


class EngineRuntime(HoldsCopies[EngineWeights]):
    """Launches an engine's kernel through the engine's own function.

    Attributes:
        format: what the kernel multiplies on this GPU.
    """

    def __init__(
        self,
        row: Row,
        machine: Machine,
        calls: EngineCalls,
        arch: str,
        *,
        interpret: bool,
    ) -> None:
        super().__init__()
        self.name = row.name
        self.machine = machine
        self.calls = calls
        self.format = row.dtype.format(arch)
        self._row = row
        self._interpret = interpret
        narrow = arch in _NARROW and self.format in (Format.FP8_OCP, Format.FP8_OCP_BLOCKS)
        self._sums = _NARROW_SUMS if narrow else 0.0

    def kernel_source(self) -> str:
        return kernel_digest(self._row.engine)

    def pack(self, weights: LogicalWeights) -> EngineWeights:
        return engine_weights(weights, self._row.dtype, self.format)

    def serves(self, what: What, config: Subject, tokens: int) -> bool:
        layer = self.on
        return self.calls.serves(tokens, layer.top_k, layer.experts)

    def path(self, what: What, config: Subject) -> Path:
        # In blocks each tile along K has a sum of its own, which is scaled and added up in float32.
        summed = gemm_dims(self.on, Stage.STAGE1)[1]
        if self._row.dtype.blocks:
            first = config.stage1 if isinstance(config, LayerConfig) else config
            summed = min(summed, entry(first)["BLOCK_SIZE_K"])
        return Path(
            sums=self._sums * summed**0.5,
            gate_up_bf16=True,
            silu_bf16=self.calls.silu_bf16,
            contributions_bf16=what is not What.STAGE1,
            requantised=what is What.LAYER,
            exact_division=self.format in PEAKS,  # by our own kernel; INT8 is quantised by the engine's
            toward_zero=self._interpret,
        )

    def stage(self, stage: Stage, config: Config, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        import torch

        layer, tokens = self.on, inputs.hidden.shape[0]
        first = stage is Stage.STAGE1
        a = inputs.a1 if first else inputs.a2.flatten(0, 1)
        a_scale = None
        if a.dtype != torch.bfloat16:
            a_scale = inputs.a1_scale if first else inputs.a2_scale.flatten(0, 1)
            a_scale = a_scale if a_scale.dim() == 2 else a_scale[:, None]
        middle = self._empty(tokens * layer.top_k, 2 * layer.inter_dim if first else layer.model_dim)
        shape = (tokens * layer.top_k, layer.inter_dim) if first else (tokens, layer.model_dim)
        out = Output.allocate(shape, self.machine.device)
        launches = []
        for step in steps:
            gemm = self._gemm(stage, entry(config), step, a, middle, a_scale=a_scale)

            def run(gemm: Callable[[], None] = gemm, ids: "torch.Tensor" = step.ids) -> None:
                gemm()
                if first:
                    self.calls.activate(middle, out.tensor)
                else:
                    self.calls.sum(middle, out.tensor, ids)

            launches.append(Launch(run, out.tensor, scratch=(middle,), guards=out.guards))
        if not first:
            return launches
        return [
            replace(launch, output=out.tensor.view(tokens, layer.top_k, layer.inter_dim))
            for launch in launches
        ]

    def layer(self, config: LayerConfig, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        layer, tokens = self.on, inputs.hidden.shape[0]
        slots = tokens * layer.top_k
        gate_up = self._empty(slots, 2 * layer.inter_dim)
        middle = self._empty(slots, layer.inter_dim)
        contributions = self._empty(slots, layer.model_dim)
        out = Output.allocate((tokens, layer.model_dim), self.machine.device)
        up_knobs, down_knobs = entry(config.stage1), entry(config.stage2)
        launches = []
        for step in steps:
            order = self._sorted(step, up_knobs["BLOCK_SIZE_M"])
            up = self._gemm(Stage.STAGE1, up_knobs, step, inputs.hidden, gate_up, order=order)
            down = self._gemm(Stage.STAGE2, down_knobs, step, middle, contributions, order=order)

            def run(
                up: Callable[[], None] = up,
                down: Callable[[], None] = down,
                ids: "torch.Tensor" = step.ids,
            ) -> None:
                up()
                self.calls.activate(gate_up, middle)
                down()
                self.calls.sum(contributions, out.tensor, ids)

            scratch = (gate_up, middle, contributions)
            launches.append(Launch(run, out.tensor, scratch=scratch, guards=out.guards, intermediate=middle))
        return launches

    def _empty(self, rows: int, width: int) -> "torch.Tensor":
        import torch

        return torch.zeros((rows, width), dtype=torch.bfloat16, device=self.machine.device)

    def _sorted(self, step: Step, block: int) -> Sorted:
        return make_order(self.calls, self.on, step.ids, block)

    def _gemm(
        self,
        stage: Stage,
        knobs: Mapping[str, int],
        step: Step,
        a: "torch.Tensor",
        out: "torch.Tensor",
        *,
        a_scale: "torch.Tensor | None" = None,
        order: Sorted | None = None,
    ) -> Callable[[], None]:
        """One GEMM of a step; its sort is made now, not when it is launched."""
        layer, weights = self.on, self.copies[step.copy]
        first = stage is Stage.STAGE1
        arguments: dict[str, Any] = {
            "a": a,
            "a_scale": a_scale,
            "w": weights.w1 if first else weights.w2,
            "w_scale": weights.w1_scale if first else weights.w2_scale,
            "out": out.view(*step.ids.shape, -1),
            "router": step.router,
            "ids": step.ids,
            "order": order or self._sorted(step, knobs["BLOCK_SIZE_M"]),
            "top_k": layer.top_k,
        }
        return partial(self.calls.gemm, stage, knobs, **arguments)
