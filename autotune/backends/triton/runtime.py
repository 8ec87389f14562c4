"""Our Triton kernels on the device, for the measure worker."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from autotune.backends.triton.backend import kernel_source
from autotune.kernels import sort as sorting
from autotune.kernels import spec as specs
from autotune.kernels.config import LayerDims, Stage1Config, Stage2Config
from autotune.kernels.operator import absent_spec, operator_chain
from autotune.kernels.tuned import TunedLayer
from autotune.measure.copies import HoldsCopies
from autotune.measure.machine import CpuMachine, GpuMachine
from autotune.problem.layer import Layer, Stage
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

    Tensors = dict[str, torch.Tensor]


_SORTED_STEPS = 4096
"""Steps whose sorted blocks are kept; a pass has some fifty, a final a few hundred."""


def make() -> "TritonRuntime":
    """The runtime on the GPU; on the CPU where Triton interprets (`TRITON_INTERPRET=1`, for tests)."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return TritonRuntime(CpuMachine(), interpret=True)
    return TritonRuntime(GpuMachine(), interpret=False)


class TritonRuntime(HoldsCopies[LogicalWeights]):
    """Launches `autotune.kernels`. Copy 0 of the weights is the logical weights themselves."""

    name = "triton"

    def __init__(self, machine: Machine, *, interpret: bool) -> None:
        super().__init__()
        self.machine = machine
        self._interpret = interpret
        self._compiled: dict[str, Any] = {}
        self._sorted: dict[tuple[int, int], tuple[Step, Tensors]] = {}
        self._runtime = "cuda" if interpret else _target().backend

    def kernel_source(self) -> str:
        return kernel_source()

    def pack(self, weights: LogicalWeights) -> LogicalWeights:
        return weights

    def prepare(self, layer: Layer, weights: LogicalWeights) -> None:
        super().prepare(layer, weights)
        self._sorted.clear()

    def serves(self, what: What, config: Subject, tokens: int) -> bool:
        stage2 = config.stage2 if isinstance(config, LayerConfig) else config
        reduces_in_registers = what is not What.STAGE1 and stage2["reduce"] == "loop"
        tile_m = int(str(stage2["tile_m"]))
        rows = tile_m if tile_m < sorting.TOKEN_ROWS else tokens
        return tokens <= rows and (not reduces_in_registers or tokens <= sorting.TOKEN_ROWS)

    def path(self, what: What, config: Subject) -> Path:
        # Partial sums are INT32 or float32, or rounded once, as the output is; the layer's intermediate is
        # bfloat16.
        # Triton's interpreter cuts bfloat16 off where the hardware rounds.
        layer = what is What.LAYER
        stage2 = config.stage2 if isinstance(config, LayerConfig) else config
        rounded = what is not What.STAGE1 and stage2.get("partials") == "bfloat16"
        return Path(
            contributions_bf16=rounded,
            requantised=layer,
            exact_division=layer,
            toward_zero=self._interpret,
        )

    def stage(self, stage: Stage, config: Config, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        spec, tokens = self._spec(stage, config), inputs.hidden.shape[0]
        tile_m = int(str(config["tile_m"]))
        buffers = specs.buffers(spec, tokens)
        output, scratch, shared = self._buffers(spec, tokens)
        a, a_scale = (
            (inputs.a1, inputs.a1_scale)
            if stage is Stage.STAGE1
            else (inputs.a2.flatten(0, 1), inputs.a2_scale.flatten())
        )
        half = a[:, : a.shape[1] // 2]
        shared |= {"a": a, "a_scale": a_scale, "a_low_sum": half.sum(dim=1).int()}
        launches = []
        for step in steps:
            blocks = self._sorted_of(step, buffers, tile_m)
            tensors = {**shared, **self._weights(stage, step), **blocks, "topk_ids": step.ids}
            run = self._launch(spec, tokens, {**tensors, "topk_weight": step.router.flatten()})
            if self.on.ep > 1 and isinstance(spec.config, Stage2Config) and spec.config.reduce != "loop":
                run = partial(_in_turn, [self._absent(spec.config, tokens, shared, step), run])
            launches.append(self._made(run, stage, inputs, output, scratch))
        return launches

    def layer(self, config: LayerConfig, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        import torch

        layer, tokens = self.on, inputs.hidden.shape[0]
        dims = LayerDims(layer.model_dim, layer.inter_dim, layer.experts, layer.top_k)
        stage1, stage2 = Stage1Config.of(dict(config.stage1)), Stage2Config.of(dict(config.stage2))
        chain = operator_chain(dims, TunedLayer(stage1, stage2), tokens, self._runtime, self.on.ep > 1)
        device = self.machine.device
        middle, output = (
            Output.allocate(shape, device)
            for shape in (chain.scratch["middle"].shape, (tokens, layer.model_dim))
        )
        scratch = {
            name: torch.zeros(buffer.shape, dtype=getattr(torch, buffer.dtype), device=device)
            for name, buffer in chain.scratch.items()
        } | {"middle": middle.tensor}
        poisoned = [
            tensor
            for name, tensor in scratch.items()
            if not chain.scratch[name].zeroed and tensor.is_floating_point()
        ]
        programs = [self._program(link.spec) for link in chain.links]
        launches = []
        for step in steps:
            weights = self.copies[step.copy]
            tensors = {
                **scratch,
                "x": inputs.hidden,
                "topk_ids": step.ids,
                "topk_weight": step.router.flatten(),
                "w1": weights.w1,
                "w1_scale": weights.w1_scale,
                "w2": weights.w2,
                "w2_scale": weights.w2_scale,
                "out": output.tensor,
            }
            parts = [
                specs.bind(
                    link.spec,
                    program,
                    link.grid,
                    {**link.numbers, **{key: tensors[name] for key, name in link.tensors.items()}},
                )
                for link, program in zip(chain.links, programs, strict=True)
            ]
            launches.append(
                Launch(
                    partial(_in_turn, parts),
                    output.tensor,
                    scratch=tuple(poisoned),
                    guards=output.guards,
                    intermediate=middle.tensor.view(tokens * layer.top_k, -1),
                )
            )
        return launches

    def _spec(self, stage: Stage, config: Config) -> specs.KernelSpec:
        return specs.stage_spec(stage.value, dict(config), self.on, self._runtime)

    def _program(self, spec: specs.KernelSpec) -> Any:
        if self._interpret:
            return None
        if spec.name not in self._compiled:
            self._compiled[spec.name] = specs.compile_kernel(spec, _target())
        return self._compiled[spec.name]

    def _absent(self, config: Stage2Config, tokens: int, shared: "Tensors", step: Step) -> Callable[[], None]:
        """What stage 2 is told of experts that are not here, by a launch before it."""
        layer = self.on
        dims = LayerDims(layer.model_dim, layer.inter_dim, layer.experts, layer.top_k)
        spec = absent_spec(config, dims, self._runtime)
        named = {**shared, "topk_ids": step.ids}
        arguments = {name: named[name] for name in spec.run_time}
        return specs.bind(spec, self._program(spec), (tokens, 1, 1), arguments)

    def _launch(
        self, spec: specs.KernelSpec, tokens: int, arguments: Mapping[str, Any]
    ) -> Callable[[], None]:
        blocks = specs.grid(spec, tokens)
        return specs.bind(spec, self._program(spec), blocks, {**arguments, "tokens": tokens})

    def _buffers(
        self, spec: specs.KernelSpec, tokens: int
    ) -> "tuple[Output, tuple[torch.Tensor, ...], Tensors]":
        """The output with its guards, the scratch that may be poisoned, and both by argument name."""
        import torch

        named = specs.buffers(spec, tokens)
        output = Output.allocate(named["out"].shape, self.machine.device)
        tensors = {"out": output.tensor}
        for name in named.keys() & {"partial", "arrivals", "finished", "q", "scale", "low_sum"}:
            buffer = named[name]
            dtype = getattr(torch, buffer.dtype)
            tensors[name] = torch.zeros(buffer.shape, dtype=dtype, device=self.machine.device)
        scratch = [tensors[name] for name in ("partial",) if name in tensors and not named[name].zeroed]
        return output, tuple(scratch), tensors

    def _weights(self, stage: Stage, step: Step) -> "Tensors":
        weights = self.copies[step.copy]
        if stage is Stage.STAGE1:
            return {"w": weights.w1, "w_scale": weights.w1_scale}
        return {"w": weights.w2, "w_scale": weights.w2_scale}

    def _sorted_like(self, buffers: Mapping[str, specs.Buffer], tile_m: int) -> "Tensors":
        import torch

        blocks = buffers["block_expert"].shape[0]
        shapes = {"block_expert": (blocks,), "block_slots": (blocks, tile_m), "valid_blocks": (1,)}
        return {
            name: torch.empty(shape, dtype=torch.int32, device=self.machine.device)
            for name, shape in shapes.items()
        }

    def _sorted_of(self, step: Step, buffers: Mapping[str, specs.Buffer], tile_m: int) -> "Tensors":
        """A step's sorted blocks, made once: a pass is sorted for its first candidate, not for each."""
        key = (id(step), tile_m)
        if key not in self._sorted:
            if len(self._sorted) >= _SORTED_STEPS:
                self._sorted.clear()
            blocks = self._sorted_like(buffers, tile_m)
            self._sort_now(blocks, step)
            self._sorted[key] = (step, blocks)  # with the step, so that its id stays its own
        return self._sorted[key][1]

    def _sort_now(self, blocks: "Tensors", step: Step) -> None:
        names = ("block_expert", "block_slots", "valid_blocks")
        ordered = {name: blocks[name] for name in names}
        experts = self.on.experts
        if self.on.ep == 1:
            sorting.sort_with_torch(**ordered, topk_ids=step.ids, experts=experts)
            return
        # Other GPUs' experts are sorted as one behind ours, with room of their own, and cut off again.
        rows, tile_m = ordered["block_slots"].shape
        extra = 1 + step.ids.numel() // tile_m
        roomy = {
            "block_expert": ordered["block_expert"].new_empty(rows + extra),
            "block_slots": ordered["block_slots"].new_empty(rows + extra, tile_m),
            "valid_blocks": ordered["valid_blocks"],
        }
        ids = step.ids.where(step.ids >= 0, experts)
        sorting.sort_with_torch(**roomy, topk_ids=ids, experts=experts + 1)
        here = (roomy["block_expert"] >= 0) & (roomy["block_expert"] < experts)
        ordered["block_expert"].copy_(roomy["block_expert"].where(here, -1)[:rows])
        ordered["block_slots"].copy_(roomy["block_slots"].where(here[:, None], -1)[:rows])
        ordered["valid_blocks"].copy_(here.sum().reshape(1))

    def _made(
        self,
        run: Callable[[], None],
        stage: Stage,
        inputs: Activations,
        output: Output,
        scratch: "tuple[torch.Tensor, ...]",
    ) -> Launch:
        launch = Launch(run, output.tensor, scratch=scratch, guards=output.guards)
        if stage is Stage.STAGE2:
            return launch
        tokens, top_k = inputs.a2.shape[:2]
        return replace(launch, output=output.tensor.view(tokens, top_k, -1))


def _in_turn(parts: Sequence[Callable[[], None]]) -> None:
    for part in parts:
        part()


def _target() -> Any:
    from triton.runtime import driver

    return driver.active.get_current_target()
