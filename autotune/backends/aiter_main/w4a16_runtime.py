"""Backend `aiter_main_w4a16` on the device: bfloat16 x grouped INT4 by AITER's own FlyDSL kernels, by tile.

Calls as aiter e4048607a5: aiter/ops/flydsl/moe_kernels.py:1884-1978 and 2277-2390. In this format stage 1
allocates its result, one row a sorted position, and ignores the output that it is given.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from autotune.backends.aiter.pack import flydsl_weights
from autotune.backends.aiter_main.backend import AiterMainGrouped, grouped_spaces, stage2_misfit
from autotune.backends.aiter_main.pack import grouped_scales
from autotune.backends.aiter_main.runtime import DEVICE, AiterMainRuntime, Sorted
from autotune.backends.flydsl.request import whole
from autotune.kernels.formats import Format, weight_scales
from autotune.measure.machine import amd_machine
from autotune.problem.layer import Stage
from autotune.protocol.runtime import Activations, LogicalWeights, Machine, Step, What
from autotune.results import LayerConfig
from autotune.space.config import UNSET, Config
from autotune.space.space import BoundSpace

if TYPE_CHECKING:
    import torch

_DTYPES = {"a_dtype": "bf16", "b_dtype": "int4", "out_dtype": "bf16"}
_STREAMED = 2  # stage 1's cache hint of weight loads where a name leaves it out


def make() -> "GroupedRuntime":
    """The runtime on the first GPU.

    Raises:
        UserError: AITER main is missing, or the GPU is none of AMD's.
    """
    return GroupedRuntime(amd_machine(GroupedRuntime.name))


class GroupedRuntime(AiterMainRuntime):
    """Calls `flydsl_moe_stage1` and `flydsl_moe_stage2` with the config's tiles."""

    name = "aiter_main_w4a16"
    format = Format.GROUPED

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        from aiter.ops.flydsl import moe_kernels

        self._kernels: Any = moe_kernels
        self._arch = machine.fingerprint(self.name, "").arch

    def pack(self, weights: LogicalWeights) -> LogicalWeights:
        w1_scale, w2_scale = (
            grouped_scales(weight_scales(self.format, scale, 2 * packed.shape[-1]))
            for packed, scale in ((weights.w1, weights.w1_scale), (weights.w2, weights.w2_scale))
        )
        return LogicalWeights(flydsl_weights(weights.w1), w1_scale, flydsl_weights(weights.w2), w2_scale)

    def space(self, stage: Stage, tokens: int) -> BoundSpace:
        return grouped_spaces()[stage].at(self.on, tokens, DEVICE)

    def kernel_source(self) -> str:
        return AiterMainGrouped().source_digest()

    def refuse(self, what: What) -> None:
        reason = None if what is What.STAGE1 else stage2_misfit(self._package, self._arch)
        if reason is not None:
            raise ValueError(f"only stage 1 can be measured here: {reason}")

    def launch1(
        self, config: Config, inputs: Activations, step: Step, order: Sorted, out: "torch.Tensor"
    ) -> Callable[[], object]:
        import torch

        run = self._stage1(config, step, order, inputs.a1)
        rows, slots = _positions(order, *step.ids.shape), out.view(-1, out.shape[-1])
        # From sorted positions to slots: a few microseconds, the same for all candidates.
        return lambda: torch.index_select(run(), 0, rows, out=slots)

    def launch2(
        self, config: Config, inputs: Activations, step: Step, order: Sorted, out: "torch.Tensor"
    ) -> Callable[[], object]:
        import torch

        rows = _positions(order, *step.ids.shape)
        shape = (len(order[2]) * whole(config, "tile_m"), self.on.inter_dim)
        by_position = torch.zeros(shape, dtype=torch.bfloat16, device=out.device)
        by_position[rows] = inputs.a2.flatten(0, 1)
        return self._stage2(config, step, order, by_position, out)

    def run_layer(self, config: LayerConfig, inputs: Activations, step: Step, out: "torch.Tensor") -> None:
        order = self.sort(config.stage1, step)
        middle = self._stage1(config.stage1, step, order, inputs.hidden)()
        self._stage2(config.stage2, step, order, middle, order[4])()
        out.copy_(order[4])

    def _stage1(self, config: Config, step: Step, order: Sorted, a: Any) -> "Callable[[], torch.Tensor]":
        weights, hint = self.copies[step.copy], config["b_nt"]
        ids, _, experts, valid, _ = order
        return partial(
            self._kernels.flydsl_moe_stage1,
            *(a, weights.w1, ids, experts, valid, None, self.on.top_k),
            **_tiles(config),
            **_DTYPES,
            w1_scale=weights.w1_scale,
            k_wave=whole(config, "k_wave"),
            b_nt=_STREAMED if hint is UNSET else whole(config, "b_nt"),
        )

    def _stage2(
        self, config: Config, step: Step, order: Sorted, a: Any, out: "torch.Tensor"
    ) -> Callable[[], object]:
        weights = self.copies[step.copy]
        ids, router, experts, valid, _ = order
        return partial(
            self._kernels.flydsl_moe_stage2,
            *(a, weights.w2, ids, experts, valid, out, self.on.top_k),
            **_tiles(config),
            **_DTYPES,
            mode="atomic",
            w2_scale=weights.w2_scale,
            sorted_weights=router,
        )


def _tiles(config: Config) -> dict[str, int]:
    return {name: whole(config, name) for name in ("tile_m", "tile_n", "tile_k")}


def _positions(order: Sorted, tokens: int, top_k: int) -> "torch.Tensor":
    """The sorted position of every slot, int64 [tokens * top_k]. An id is slot << 24 | token."""
    import torch

    ids, valid = order[0], int(order[3][0])
    token, slot = (ids & 0xFFFFFF).long(), (ids >> 24).long()
    real = (token < tokens) & (torch.arange(len(ids), device=ids.device) < valid)
    rows = torch.zeros(tokens * top_k, dtype=torch.int64, device=ids.device)
    rows[token[real] * top_k + slot[real]] = real.nonzero()[:, 0]
    return rows
