"""Backend `aiter_main` on the device: FP8 x INT4 by Composable Kernel, two stages chosen by kernel name.

Calls as aiter e4048607a5: aiter/ops/moe_op.py:587-670. INT4 weights are told by their dtype, uint32.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from autotune.backends.aiter_main.backend import AiterMain
from autotune.backends.aiter_main.pack import ck_weights
from autotune.backends.aiter_main.runtime import DEVICE, AiterMainRuntime, Sorted
from autotune.backends.flydsl.request import whole
from autotune.kernels.formats import Format
from autotune.measure.machine import amd_machine
from autotune.problem.layer import Stage
from autotune.protocol.runtime import Activations, LogicalWeights, Step
from autotune.results import LayerConfig
from autotune.space.config import UNSET, Config
from autotune.space.space import BoundSpace

if TYPE_CHECKING:
    import torch


def make() -> "CkRuntime":
    """The runtime on the first GPU.

    Raises:
        UserError: AITER main is missing, or the GPU is none of AMD's.
    """
    return CkRuntime(amd_machine(CkRuntime.name))


class CkRuntime(AiterMainRuntime):
    """Calls `aiter.ck_moe_stage1_fwd` and `ck_moe_stage2_fwd` with the config's kernel name."""

    name = "aiter_main"
    format = Format.FP8

    def pack(self, weights: LogicalWeights) -> LogicalWeights:
        scales = (s.float().contiguous()[..., None] for s in (weights.w1_scale, weights.w2_scale))
        w1_scale, w2_scale = scales
        return LogicalWeights(ck_weights(weights.w1), w1_scale, ck_weights(weights.w2), w2_scale)

    def space(self, stage: Stage, tokens: int) -> BoundSpace:
        return AiterMain().space(self.on, tokens, stage, DEVICE)

    def launch1(
        self, config: Config, inputs: Activations, step: Step, order: Sorted, out: "torch.Tensor"
    ) -> Callable[[], object]:
        return self._stage1(config, step, order, inputs.a1, inputs.a1_scale.view(-1, 1), out)

    def launch2(
        self, config: Config, inputs: Activations, step: Step, order: Sorted, out: "torch.Tensor"
    ) -> Callable[[], object]:
        return self._stage2(config, step, order, inputs.a2, inputs.a2_scale.view(-1, 1), out)

    def run_layer(self, config: LayerConfig, inputs: Activations, step: Step, out: "torch.Tensor") -> None:
        import torch

        layer, hidden = self.on, inputs.hidden
        order = self.sort(config.stage1, step)
        quantise = self.aiter.get_hip_quant(self.aiter.QuantType.per_Token)
        a1, a1_scale = quantise(hidden, quant_dtype=self.aiter.dtypes.fp8)
        shape = (len(hidden), layer.top_k, layer.inter_dim)
        middle = torch.empty(shape, dtype=torch.bfloat16, device=hidden.device)
        self._stage1(config.stage1, step, order, a1, a1_scale, middle)()
        a2, a2_scale = quantise(middle, quant_dtype=self.aiter.dtypes.fp8)
        # The sort has zeroed its own output; a copy brings it to where the gate looks, the same for all.
        self._stage2(config.stage2, step, order, a2.view(shape), a2_scale, order[4])()
        out.copy_(order[4])

    def _stage1(
        self, config: Config, step: Step, order: Sorted, a: Any, a_scale: Any, out: "torch.Tensor"
    ) -> Callable[[], object]:
        import torch

        scales = {"w1_scale": self.copies[step.copy].w1_scale, "a1_scale": a_scale, "sorted_weights": None}
        further = {"splitk": 0, "dst_type": torch.bfloat16}
        return self._bound(self.aiter.ck_moe_stage1_fwd, config, step, order, a, out, **scales, **further)

    def _stage2(
        self, config: Config, step: Step, order: Sorted, a: Any, a_scale: Any, out: "torch.Tensor"
    ) -> Callable[[], object]:
        scales = {
            "w2_scale": self.copies[step.copy].w2_scale,
            "a2_scale": a_scale,
            "sorted_weights": order[1],
        }
        return self._bound(self.aiter.ck_moe_stage2_fwd, config, step, order, a, out, **scales)

    def _bound(
        self,
        function: Callable[..., object],
        config: Config,
        step: Step,
        order: Sorted,
        a: Any,
        out: "torch.Tensor",
        **further: Any,
    ) -> Callable[[], object]:
        import torch

        layer, weights = self.on, self.copies[step.copy]
        ids, _, experts, valid, _ = order
        name = config["kernel"]
        return partial(
            function,
            *(a, weights.w1.view(torch.uint32), weights.w2.view(torch.uint32), ids, experts, valid, out),
            layer.top_k,
            kernelName="" if name is UNSET else str(name),
            block_m=whole(config, "tile_m"),
            quant_type=self.aiter.QuantType.per_Token,
            activation=self.aiter.ActivationType.Silu,
            use_non_temporal_load=self.moe.use_nt(len(out), layer.top_k, layer.experts),
            **further,
        )
