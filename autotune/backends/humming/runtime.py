"""humming's indexed MoE GEMM on the device, launched by its own launcher, for the measure worker.

A layer is what vLLM 0.33.0 runs (`fused_humming_moe.py`, `HummingIndexedExperts.apply`): the sort into
blocks, a second one where the stages' blocks are unlike; INT8 activations quantised; stage 1; SiLU(gate) * up
with the quantisation for stage 2 in one kernel; stage 2; the weighted sum. A stage by itself is its GEMM with
the activation, which then leaves bfloat16, or with the sum, and without the sort.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from autotune.backends.humming import library
from autotune.backends.humming.backend import source_digest
from autotune.backends.humming.knobs import entry, whole
from autotune.backends.humming.ranges import MOST_ROWS
from autotune.backends.humming.rows import Row, row_of
from autotune.backends.humming.weights import humming_weights
from autotune.measure.copies import HoldsCopies
from autotune.measure.machine import GpuMachine
from autotune.problem.layer import Stage, gemm_dims
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

    from autotune.backends.humming.glue import Order

_SLICES: Final = (1, 2, 4, 10)
"""Parts along K that a tile is split into: the last is `kMaxSlices` of `scheduler.cuh`. Counts between are
taken as the next, so that few bounds need to be worked out."""
_SILU: Final = "(a / (1.f + expf(-a))) * b"
"""What vLLM hands to humming for SiLU(gate) * up."""
_LOCKS_PER_SM: Final = 8


def make_runtime(name: str) -> "HummingRuntime":
    """A backend's runtime on the GPU.

    Raises:
        UserError: humming, torch or a GPU of compute capability 9.0 is missing.
    """
    machine = GpuMachine()
    library.require_capability(name)
    return HummingRuntime(row_of(name), machine)


class HummingRuntime(HoldsCopies[LogicalWeights]):
    """See `protocol.runtime.Runtime`."""

    def __init__(self, row: Row, machine: Machine) -> None:
        import torch

        super().__init__()
        self.name = row.name
        self.format = row.format
        self.machine = machine
        self._row = row
        units = torch.cuda.get_device_properties(0).multi_processor_count
        self._locks = torch.zeros(units * _LOCKS_PER_SM, dtype=torch.int32, device=machine.device)
        self._ops = library.load("humming.ops")
        self._forward = library.load("humming.forward")

    def kernel_source(self) -> str:
        return source_digest()

    def pack(self, weights: LogicalWeights) -> LogicalWeights:
        self._compile_around()
        return humming_weights(self._row, self.on, weights)

    def serves(self, what: What, config: Subject, tokens: int) -> bool:
        return True  # a range may hold any number of rows

    def path(self, what: What, config: Subject) -> Path:
        stages = (Stage(what.value),) if isinstance(config, Config) else tuple(Stage)
        slices = max(
            self._slices(stage, config if isinstance(config, Config) else config.of(stage))
            for stage in stages
        )
        return Path(
            gate_up_bf16=True,
            slices=slices,
            scaled_bf16=not self._row.group,  # a channel's scale meets the sum in the epilogue, in bfloat16
            contributions_bf16=what is not What.STAGE1,
            requantised=what is What.LAYER,
        )

    def stage(self, stage: Stage, config: Config, x: Activations, steps: Sequence[Step]) -> list[Launch]:
        import torch

        from autotune.backends.humming.glue import weighted_sum

        layer, tokens = self.on, x.hidden.shape[0]
        up, slots = stage is Stage.STAGE1, tokens * layer.top_k
        a, scale = (x.a1, x.a1_scale) if up else (x.a2.flatten(0, 1), x.a2_scale)
        a_scale = None if a.dtype == torch.bfloat16 else scale.reshape(-1, 1).contiguous()
        product = self._empty(slots, gemm_dims(layer, stage)[0])
        shape = (slots, layer.inter_dim) if up else (tokens, layer.model_dim)
        out = Output.allocate(shape, self.machine.device)
        configs = self._configs(stage, config)
        launches = []
        for step in steps:
            order = self._order(step, whole(config, "block_m"))
            order.fill(step.ids)

            def run(step: Step = step, order: "Order" = order) -> None:
                self._gemm(stage, configs, step, a, a_scale, product, order)
                if up:
                    self._activate(product, out.tensor)
                else:
                    weighted_sum(product, step.router, out.tensor)

            launches.append(Launch(run, out.tensor, scratch=(product,), guards=out.guards))
        if not up:
            return launches
        shaped = out.tensor.view(tokens, layer.top_k, layer.inter_dim)
        return [replace(launch, output=shaped) for launch in launches]

    def layer(self, config: LayerConfig, x: Activations, steps: Sequence[Step]) -> list[Launch]:
        import torch

        from autotune.backends.humming.glue import weighted_sum

        layer, tokens = self.on, x.hidden.shape[0]
        slots, eight = tokens * layer.top_k, self._row.activation_bits == 8
        device = self.machine.device
        gate_up = self._empty(slots, 2 * layer.inter_dim)
        contributions = self._empty(slots, layer.model_dim)
        kind = torch.int8 if eight else torch.bfloat16
        middle = torch.zeros((slots, layer.inter_dim), dtype=kind, device=device)
        middle_scale = torch.zeros((slots, 1), dtype=torch.float32, device=device) if eight else None
        quantised = torch.zeros(x.hidden.shape, dtype=torch.int8, device=device) if eight else x.hidden
        hidden_scale = torch.zeros((tokens, 1), dtype=torch.float32, device=device) if eight else None
        out = Output.allocate((tokens, layer.model_dim), device)
        up, down = (self._configs(stage, config.of(stage)) for stage in Stage)
        blocks = [whole(config.of(stage), "block_m") for stage in Stage]
        launches = []
        for step in steps:
            first = self._order(step, blocks[0])
            second = first if blocks[0] == blocks[1] else self._order(step, blocks[1])

            def run(step: Step = step, first: "Order" = first, second: "Order" = second) -> None:
                first.fill(step.ids)
                if second is not first:
                    second.fill(step.ids)
                if eight:
                    self._quantise(x.hidden, quantised, hidden_scale)
                self._gemm(Stage.STAGE1, up, step, quantised, hidden_scale, gate_up, first)
                self._activate(gate_up, middle, middle_scale)
                self._gemm(Stage.STAGE2, down, step, middle, middle_scale, contributions, second)
                weighted_sum(contributions, step.router, out.tensor)

            scratch = [gate_up, middle, contributions, first.sorted_ids, first.block_experts]
            if eight:
                assert middle_scale is not None
                assert hidden_scale is not None
                scratch += [middle_scale, quantised, hidden_scale]
            # INT8 values are all that is left of stage 1 there, so the layer is judged as a whole.
            shown = None if eight else middle
            launches.append(
                Launch(run, out.tensor, scratch=tuple(scratch), guards=out.guards, intermediate=shown)
            )
        return launches

    def _compile_around(self) -> None:
        """Compiles the kernels around the GEMMs now, together.

        humming compiles one for each range of rows when it first needs any, in an INT8 layer 17: one after
        the other that took 30 s of a search.
        """
        import torch

        def empty(width: int, kind: torch.dtype = torch.bfloat16) -> torch.Tensor:
            return torch.zeros((1, width), dtype=kind, device=self.machine.device)

        layer = self.on
        gate_up, scale = empty(2 * layer.inter_dim), empty(1, torch.float32)
        calls = [partial(self._activate, gate_up, empty(layer.inter_dim))]
        if self._row.activation_bits == 8:
            middle, x = empty(layer.inter_dim, torch.int8), empty(layer.model_dim)
            calls.append(partial(self._activate, gate_up, middle, scale))
            calls.append(partial(self._quantise, x, empty(layer.model_dim, torch.int8), scale.clone()))
        with ThreadPoolExecutor(len(calls)) as threads:
            for done in [threads.submit(call) for call in calls]:
                done.result()

    def _slices(self, stage: Stage, config: Config) -> int:
        if not config["stream_k"]:
            return 1
        depth = gemm_dims(self.on, stage)[1]
        most = min(_SLICES[-1], -(-depth // whole(config, "block_k")))
        return next(count for count in _SLICES if count >= most)

    def _empty(self, rows: int, width: int) -> "torch.Tensor":
        import torch

        return torch.zeros((rows, width), dtype=torch.bfloat16, device=self.machine.device)

    def _order(self, step: Step, block: int) -> "Order":
        from autotune.backends.humming.glue import Order

        return Order(step.ids.numel(), self.on.experts, block, self.machine.device)

    def _configs(self, stage: Stage, config: Config) -> "torch.Tensor":
        """What humming's launcher takes: one range for everything. Compiles what no worker has compiled."""
        kernel = library.load("humming.kernel.humming").HummingKernel
        layer = library.layer_config(self._row, self.on, stage).to_str()
        compute, tuning = json.dumps(library.COMPUTE), json.dumps([[0, MOST_ROWS, entry(config)]])
        configs: torch.Tensor = kernel.prepare_kernels(layer, compute, tuning, 0)
        return configs

    def _gemm(
        self,
        stage: Stage,
        configs: "torch.Tensor",
        step: Step,
        a: "torch.Tensor",
        a_scale: "torch.Tensor | None",
        out: "torch.Tensor",
        order: "Order",
    ) -> None:
        weights = self.copies[step.copy]
        up = stage is Stage.STAGE1
        self._ops.launch_kernel(
            configs=configs,
            inputs=a,
            weight=weights.w1 if up else weights.w2,
            weight_scale=weights.w1_scale if up else weights.w2_scale,
            input_scale=a_scale,
            outputs=out,
            sorted_ids=order.sorted_ids,
            expert_ids=order.block_experts,
            num_tokens_padded=order.padded_rows,
            locks=self._locks,
            top_k=self.on.top_k if up else 1,
            valid_shape_m=step.ids.numel(),
        )

    def _quantise(self, x: "torch.Tensor", out: "torch.Tensor", scale: "torch.Tensor | None") -> None:
        config = library.layer_config(self._row, self.on, Stage.STAGE1)
        self._forward.may_process_input(config, x, outputs=out, token_scales=scale)

    def _activate(
        self, gate_up: "torch.Tensor", out: "torch.Tensor", scale: "torch.Tensor | None" = None
    ) -> None:
        """SiLU(gate) * up in humming's kernel, quantised by token where there is a place for its scale."""
        activation: dict[str, Any] = {"activation_type": "binary_split", "activation_impl": _SILU}
        call: Callable[..., Any] = self._ops.process_input
        if scale is None:
            call(gate_up, outputs=out, **activation)
            return
        call(gate_up, outputs=out, token_scales=scale, quant_mode="dynamic_token", quant_dtype="int8",
             group_scale_dtype="float32", **activation)  # fmt: skip
