"""Backend `flydsl` on the device: the W4A8 kernels of the tree that `DSL2_ROOT` names, without an engine.

The sort is made by torch beforehand and is not timed, and quantising is torch's: the same for all
candidates, so that they are compared rightly, but a layer's microseconds are not an engine's.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from autotune.backends.aiter.cache import use_own_cache
from autotune.backends.aiter.knobs import SCRUBBED, engine_block
from autotune.backends.aiter.pack import flydsl_weights
from autotune.backends.flydsl.backend import Flydsl
from autotune.backends.flydsl.launch import Order, bind, make_order
from autotune.backends.flydsl.request import Request, whole
from autotune.backends.flydsl.tree import FlydslTree, TreeGeneration, find_tree
from autotune.backends.flydsl.wheel import remedy
from autotune.backends.flydsl.worker import shims
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


def make() -> "FlydslRuntime":
    """The runtime on the first GPU.

    Raises:
        UserError: the tree or its wheel is missing, or the GPU is none of AMD's.
    """
    return FlydslRuntime(amd_machine("flydsl", instead="prepare with --target offline:mi325x"))


class FlydslRuntime(HoldsCopies[LogicalWeights]):
    """Launches a tree's kernels."""

    name = "flydsl"

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._tree = _usable_tree()
        for name in SCRUBBED:
            os.environ.pop(name, None)
        use_own_cache()  # the gates of the published generation are in no key
        sys.path.insert(0, str(self._tree.root))  # as AITER does it
        try:
            import flydsl  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"backend flydsl measures with the wheel of this Python ({error}):"
                f" {remedy(self._tree.generation, sys.executable)}"
            ) from error
        shims.apply(self._tree.root)
        self.machine = machine

    def kernel_source(self) -> str:
        return Flydsl().source_digest()

    def pack(self, weights: LogicalWeights) -> LogicalWeights:
        w1, w2 = (flydsl_weights(packed) for packed in (weights.w1, weights.w2))
        return LogicalWeights(w1, weights.w1_scale.float(), w2, weights.w2_scale.float())

    def serves(self, what: What, config: Subject, tokens: int) -> bool:
        if self._tree.generation is TreeGeneration.MAIN:
            return True
        stage1 = config.stage1 if isinstance(config, LayerConfig) else config
        return whole(stage1, "tile_m") == engine_block(tokens)

    def path(self, what: What, config: Subject) -> Path:
        """Stage 2 rounds each expert's contribution to bfloat16, and with atomics every sum as well."""
        if what is What.STAGE1:
            return Path()
        two = config.stage2 if isinstance(config, LayerConfig) else config
        adds = 0 if two["mode"] == "reduce" else self.on.top_k
        layer = what is What.LAYER
        return Path(contributions_bf16=True, bf16_adds=adds, requantised=layer, exact_division=layer)

    def stage(self, stage: Stage, config: Config, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        up, tokens = stage is Stage.STAGE1, inputs.hidden.shape[0]
        a = (inputs.a1, inputs.a1_scale) if up else (inputs.a2, inputs.a2_scale)
        output, slots = self._output(stage, tokens), self._slots(stage, config, tokens)
        scratch = () if slots is None else (slots,)
        return [
            Launch(
                self._bound(stage, config, step, self._order(config, step), a, output.tensor, slots),
                output.tensor,
                scratch=scratch,
                guards=output.guards,
            )
            for step in steps
        ]

    def layer(self, config: LayerConfig, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        import torch

        from autotune.kernels.reference import quantise_reference

        layer, tokens = self.on, inputs.hidden.shape[0]
        output, middle = self._output(Stage.STAGE2, tokens), self._output(Stage.STAGE1, tokens).tensor
        slots = self._slots(Stage.STAGE2, config.stage2, tokens)
        device = self.machine.device
        a1, a2 = (
            (torch.zeros(shape, dtype=torch.int8, device=device), torch.zeros(shape[0], device=device))
            for shape in ((tokens, layer.model_dim), (tokens * layer.top_k, layer.inter_dim))
        )

        def quantise(x: "torch.Tensor", into: "tuple[torch.Tensor, torch.Tensor]") -> None:
            for target, value in zip(into, quantise_reference(x)[:2], strict=True):
                target.copy_(value)

        def bound(step: Step) -> Callable[[], None]:
            order = self._order(config.stage1, step)
            up = self._bound(Stage.STAGE1, config.stage1, step, order, a1, middle, None)
            down = self._bound(Stage.STAGE2, config.stage2, step, order, a2, output.tensor, slots)

            def run() -> None:
                quantise(inputs.hidden, a1)
                up()
                quantise(middle.flatten(0, 1), a2)
                down()

            return run

        scratch = (middle, a1[1], a2[1]) if slots is None else (middle, a1[1], a2[1], slots)
        rows = middle.flatten(0, 1)
        return [
            Launch(bound(s), output.tensor, scratch=scratch, guards=output.guards, intermediate=rows)
            for s in steps
        ]

    def _bound(
        self,
        stage: Stage,
        config: Config,
        step: Step,
        order: Order,
        a: "tuple[torch.Tensor, torch.Tensor]",
        out: "torch.Tensor",
        slots: "torch.Tensor | None",
    ) -> Callable[[], None]:
        self._require_legal(stage, config, len(out))
        weights, up = self.copies[step.copy], stage is Stage.STAGE1
        w = (weights.w1, weights.w1_scale) if up else (weights.w2, weights.w2_scale)
        request = Request.of(self._tree, self.on, stage, config, DEVICES["mi325x"].arch)
        run = bind(request, len(out), order, a, w, out, slots)
        if up or request.mode == "reduce":
            return run

        def zeroed_first() -> None:
            out.zero_()  # atomics add into what is there
            run()

        return zeroed_first

    def _output(self, stage: Stage, tokens: int) -> Output:
        layer = self.on
        shape = (tokens, layer.top_k, layer.inter_dim) if stage is Stage.STAGE1 else (tokens, layer.model_dim)
        return Output.allocate(shape, self.machine.device)

    def _slots(self, stage: Stage, config: Config, tokens: int) -> "torch.Tensor | None":
        """A row a slot, where main's `reduce` needs it; the published generation allocates its own."""
        import torch

        main = self._tree.generation is TreeGeneration.MAIN
        if stage is Stage.STAGE1 or config["mode"] != "reduce" or not main:
            return None
        shape = (tokens * self.on.top_k, self.on.model_dim)
        return torch.zeros(shape, dtype=torch.bfloat16, device=self.machine.device)

    def _order(self, config: Config, step: Step) -> Order:
        return make_order(step.ids, step.router, self.on.experts, whole(config, "tile_m"))

    def _require_legal(self, stage: Stage, config: Config, tokens: int) -> None:
        """Refuses what the kernel would answer with wrong numbers.

        Raises:
            ValueError: the rule and its reason.
        """
        # That a block is taller than there are tokens is waste, not an error.
        at = max(tokens, whole(config, "tile_m")) if self._tree.generation is TreeGeneration.MAIN else tokens
        rule = Flydsl().space(self.on, at, stage, DEVICES["mi325x"]).broken_rule(config)
        if rule is not None:
            raise ValueError(f"{config} breaks the rule {rule.name}: {rule.reason}")


def _usable_tree() -> FlydslTree:
    tree = find_tree()
    if tree.generation is TreeGeneration.AITER:
        raise UserError(
            f"{tree.root} is an AITER tree, whose kernels AITER launches: use --backend aiter_main_w4a16"
        )
    return tree
