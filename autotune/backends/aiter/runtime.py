"""AITER's published generation on the device, for the measure worker.

A measure process has one value for each gate, and for those a FlyDSL cache folder of its own: the gates are
read while a kernel is traced and are in no cache key, so a folder that has seen another value gives the other
kernel. Tiles, mode and grid trim AITER reads at every call, so they are set around each.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from autotune.backends.aiter.backend import Aiter, spaces
from autotune.backends.aiter.cache import use_own_cache
from autotune.backends.aiter.knobs import LDS_VARIABLE, SCRUBBED, SWITCHES, engine_block, launch_variables
from autotune.backends.aiter.pack import flydsl_weights
from autotune.backends.flydsl.request import GATES, whole
from autotune.backends.flydsl.tree import find_tree
from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.measure.copies import HoldsCopies
from autotune.measure.machine import amd_machine
from autotune.problem.layer import Stage
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


def make() -> "AiterRuntime":
    """The runtime on the first GPU.

    Raises:
        UserError: AITER or its FlyDSL tree is missing, or the GPU is none of AMD's.
    """
    return AiterRuntime(amd_machine("aiter"))


class AiterRuntime(HoldsCopies[LogicalWeights]):
    """Calls `aiter.fused_moe`."""

    name = "aiter"

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        prepare_environment()
        self._aiter, self._moe = _import_aiter()
        self.machine = machine

    def kernel_source(self) -> str:
        return Aiter().source_digest()

    def pack(self, weights: LogicalWeights) -> LogicalWeights:
        # Another dtype of the scales would be converted at every call (fused_moe.py:2082 and 2556).
        scales = (weights.w1_scale.float().contiguous(), weights.w2_scale.float().contiguous())
        w1, w2 = (flydsl_weights(packed) for packed in (weights.w1, weights.w2))
        return LogicalWeights(w1, scales[0], w2, scales[1])

    def serves(self, what: What, config: Subject, tokens: int) -> bool:
        stage1 = config.stage1 if isinstance(config, LayerConfig) else config
        return whole(stage1, "tile_m") == engine_block(tokens)

    def path(self, what: What, config: Subject) -> Path:
        """Stage 2 rounds each expert's contribution to bfloat16, and with atomics every sum as well."""
        if what is What.STAGE1:
            return Path()
        two = config.stage2 if isinstance(config, LayerConfig) else config
        adds = 0 if two["mode"] == "reduce" else self.on.top_k
        return Path(contributions_bf16=True, bf16_adds=adds, requantised=what is What.LAYER)

    def stage(self, stage: Stage, config: Config, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        tokens = inputs.hidden.shape[0]
        self._require_legal(stage, config, tokens)
        layer = self.on
        shape = (tokens, layer.top_k, layer.inter_dim) if stage is Stage.STAGE1 else (tokens, layer.model_dim)
        output = Output.allocate(shape, self.machine.device)
        launch = self._stage1 if stage is Stage.STAGE1 else self._stage2
        return [
            Launch(
                partial(_within, launch_variables(config), launch(config, inputs, step, output.tensor)),
                output.tensor,
                guards=output.guards,
            )
            for step in steps
        ]

    def layer(self, config: LayerConfig, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        tokens = inputs.hidden.shape[0]
        for stage in Stage:
            self._require_legal(stage, config.of(stage), tokens)
        output = Output.allocate((tokens, self.on.model_dim), self.machine.device)
        # Stage 1's config brings the grid trim, which is one variable for both.
        variables = launch_variables(config.stage2) | launch_variables(config.stage1)
        return [
            Launch(
                partial(_within, variables, partial(self._run_layer, inputs, step, output.tensor)),
                output.tensor,
                guards=output.guards,
            )
            for step in steps
        ]

    def _stage1(
        self, config: Config, inputs: Activations, step: Step, out: "torch.Tensor"
    ) -> Callable[[], object]:
        weights = self.copies[step.copy]
        ids, _, experts, valid, _ = self._sorted(config, step)
        return partial(
            self._moe.flydsl_moe_stage1,
            *(inputs.a1, weights.w1, weights.w2, ids, experts, valid, out, self.on.top_k),
            block_m=whole(config, "tile_m"),
            a1_scale=inputs.a1_scale.view(-1, 1),
            w1_scale=weights.w1_scale,
            quant_type=self._aiter.QuantType.per_Token,
            activation=self._aiter.ActivationType.Silu,
        )

    def _stage2(
        self, config: Config, inputs: Activations, step: Step, out: "torch.Tensor"
    ) -> Callable[[], object]:
        weights = self.copies[step.copy]
        ids, router, experts, valid, _ = self._sorted(config, step)
        launch = partial(
            self._moe.flydsl_moe_stage2,
            *(inputs.a2, weights.w1, weights.w2, ids, experts, valid, out, self.on.top_k),
            w2_scale=weights.w2_scale,
            a2_scale=inputs.a2_scale.view(-1, 1),
            block_m=whole(config, "tile_m"),
            sorted_weights=router,
            quant_type=self._aiter.QuantType.per_Token,
            activation=self._aiter.ActivationType.Silu,
        )

        def zeroed_first() -> None:
            # Atomics add into what is there. In serving the sort zeroes it, in either mode: the same few
            # microseconds for all, so that neither mode gains by it.
            out.zero_()
            launch()

        return zeroed_first

    def _run_layer(self, inputs: Activations, step: Step, out: "torch.Tensor") -> None:
        weights = self.copies[step.copy]
        # It allocates its own output; a copy brings it to where the gate looks, the same for all configs.
        out.copy_(
            self._moe.fused_moe(
                *(inputs.hidden, weights.w1, weights.w2, step.router, step.ids),
                activation=self._aiter.ActivationType.Silu,
                quant_type=self._aiter.QuantType.per_Token,
                w1_scale=weights.w1_scale,
                w2_scale=weights.w2_scale,
            )
        )

    def _sorted(self, config: Config, step: Step) -> "tuple[torch.Tensor, ...]":
        import torch

        layer = self.on
        order: tuple[torch.Tensor, ...] = self._moe.moe_sorting(
            *(step.ids, step.router, layer.experts, layer.model_dim, torch.bfloat16),
            block_size=whole(config, "tile_m"),
        )
        return order

    def _require_legal(self, stage: Stage, config: Config, tokens: int) -> None:
        """Refuses what the kernel would answer with wrong numbers.

        Raises:
            ValueError: the rule and its reason.
        """
        bound = spaces()[stage].at(self.on, tokens, DEVICES["mi325x"])
        rule = bound.broken_rule(config)
        if rule is not None:
            raise ValueError(f"{config} breaks the rule {rule.name}: {rule.reason}")


def prepare_environment() -> None:
    """Sets this process up: the switches, no knob of the shell's, a cache folder for these gates alone.

    Before aiter is imported: some are read once.
    """
    # A config's own comes with stage 1's gate; alone it is the shell's.
    lds = os.environ.get(LDS_VARIABLE) if GATES[Stage.STAGE1] in os.environ else None
    for name in SCRUBBED:
        os.environ.pop(name, None)
    if lds is not None:
        os.environ[LDS_VARIABLE] = lds
    os.environ.update(SWITCHES)
    use_own_cache()


def _import_aiter() -> tuple[Any, Any]:
    find_tree()  # a missing tree is told before AITER's own message
    try:
        import aiter
        import aiter.fused_moe
    except ImportError as error:
        raise UserError(
            f"backend aiter cannot run here ({error}): use the image that serves the model"
        ) from error
    return aiter, aiter.fused_moe


def _within(variables: Mapping[str, str], run: Callable[[], object]) -> None:
    with _set(variables):
        run()


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
