"""AITER main's INT4 kernels on the device, for the measure worker.

A table of AITER's chooses kernels for a layer and is read once a process, so a candidate's layer is not
`aiter.fused_moe.fused_moe` but the functions that it calls, in its order (aiter e4048607a5,
aiter/fused_moe.py:3080-3360): sort, quantise, stage 1, quantise, stage 2.
"""

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from autotune.backends.aiter_main.backend import require_main, source_digest
from autotune.backends.flydsl.request import whole
from autotune.errors import UserError
from autotune.kernels.formats import Format
from autotune.machine.devices import DEVICES
from autotune.measure.copies import HoldsCopies
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
from autotune.space.space import BoundSpace

if TYPE_CHECKING:
    import torch

SCRUBBED = (
    "AITER_USE_NT",
    "AITER_KSPLIT",
    "AITER_FLYDSL_FORCE_REDUCE",
    "AITER_BYPASS_TUNE_CONFIG",
    "COMPILE_ONLY",
)
"""Taken out of a measuring process: each changes what is launched."""

Sorted = tuple[Any, Any, Any, Any, Any]
"""What AITER's sort gives: ids, router weights, experts of blocks, count of rows, the zeroed output."""


class AiterMainRuntime(HoldsCopies[LogicalWeights]):
    """What both formats share; subclasses pack the weights and launch their kernels."""

    name: str
    format: Format

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        for name in SCRUBBED:
            os.environ.pop(name, None)
        self._package = require_main()
        self.aiter, self.moe = _import_aiter(self.name)
        self.machine = machine

    @abstractmethod
    def space(self, stage: Stage, tokens: int) -> BoundSpace:
        """The configs that may be launched."""

    @abstractmethod
    def launch1(
        self, config: Config, inputs: Activations, step: Step, order: Sorted, out: "torch.Tensor"
    ) -> Callable[[], object]:
        """Stage 1 from `inputs.a1` into `out`, bfloat16 [tokens, top_k, inter_dim]."""

    @abstractmethod
    def launch2(
        self, config: Config, inputs: Activations, step: Step, order: Sorted, out: "torch.Tensor"
    ) -> Callable[[], object]:
        """Stage 2 from `inputs.a2` added into `out`, bfloat16 [tokens, model_dim]."""

    @abstractmethod
    def run_layer(self, config: LayerConfig, inputs: Activations, step: Step, out: "torch.Tensor") -> None:
        """The layer from `inputs.hidden` into `out`, bfloat16 [tokens, model_dim]."""

    def refuse(self, what: What) -> None:
        """Refuses what cannot run on this device.

        Raises:
            ValueError: with the reason.
        """

    def kernel_source(self) -> str:
        return source_digest(self._package)

    def serves(self, what: What, config: Subject, tokens: int) -> bool:
        return True  # a table's row serves every count up to its power of two, with its block

    def path(self, what: What, config: Subject) -> Path:
        """Stage 2 adds each expert's contribution to a bfloat16 output by atomics."""
        if what is What.STAGE1:
            return Path()
        adds = self.on.top_k
        return Path(contributions_bf16=True, bf16_adds=adds, requantised=what is What.LAYER)

    def stage(self, stage: Stage, config: Config, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        layer, tokens = self.on, inputs.hidden.shape[0]
        self.refuse(What(stage.value))
        self._require_legal(stage, config, tokens)
        up = stage is Stage.STAGE1
        shape = (tokens, layer.top_k, layer.inter_dim) if up else (tokens, layer.model_dim)
        output = Output.allocate(shape, self.machine.device)
        bind = self.launch1 if up else self.launch2
        launches = []
        for step in steps:
            run = bind(config, inputs, step, self.sort(config, step), output.tensor)
            launched = partial(_quietly, run) if up else partial(_zeroed_first, output.tensor, run)
            launches.append(Launch(launched, output.tensor, guards=output.guards))
        return launches

    def layer(self, config: LayerConfig, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        self.refuse(What.LAYER)
        tokens = inputs.hidden.shape[0]
        for stage in Stage:
            self._require_legal(stage, config.of(stage), tokens)
        output = Output.allocate((tokens, self.on.model_dim), self.machine.device)
        return [
            Launch(
                partial(self.run_layer, config, inputs, step, output.tensor),
                output.tensor,
                guards=output.guards,
            )
            for step in steps
        ]

    def sort(self, config: Config, step: Step) -> Sorted:
        """A step's tokens by expert, in blocks of the config's rows."""
        import torch

        layer = self.on
        order: Sorted = self.moe.moe_sorting(
            *(step.ids, step.router, layer.experts, layer.model_dim, torch.bfloat16),
            block_size=whole(config, "tile_m"),
        )
        return order

    def _require_legal(self, stage: Stage, config: Config, tokens: int) -> None:
        rule = self.space(stage, tokens).broken_rule(config)
        if rule is not None:
            raise ValueError(f"{config} breaks the rule {rule.name}: {rule.reason}")


DEVICE = DEVICES["mi325x"]
"""What the spaces are bound to: the rules of the kernels are those of gfx942."""


def _import_aiter(backend: str) -> tuple[Any, Any]:
    try:
        import aiter
        import aiter.fused_moe
    except ImportError as error:
        raise UserError(
            f"backend {backend} cannot run here ({error}): install AITER main and the flydsl wheel it names"
        ) from error
    return aiter, aiter.fused_moe


def _quietly(run: Callable[[], object]) -> None:
    run()


def _zeroed_first(out: "torch.Tensor", run: Callable[[], object]) -> None:
    # Atomics add into what is there. In serving the sort zeroes it: the same microseconds for all candidates.
    out.zero_()
    run()
