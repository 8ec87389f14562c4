"""Whole paths through the gate, simulated in torch: the engines' roundings pass, planted faults do not.

The short form of `scripts/prove_gate.py`, which runs the real kernels on a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import pytest
import torch

from autotune.kernels.formats import Format, quantise, weight_scales
from autotune.kernels.reference import gate_up_reference, stage2_reference
from autotune.measure.gate import Case, Incorrect, check_launches, make_cases
from autotune.measure.workload import make_weights
from autotune.problem.layer import Layer
from autotune.protocol.runtime import GATED, Activations, Launch, LogicalWeights, Output, Path, Step, What

# Real inter_dim, and a K that fourteen splits divide into more than a few values.
ROOT = FilePath(__file__).parents[2]
LAYER = Layer("narrow", model_dim=512, inter_dim=256, experts=6, top_k=4, tp=8)
HOPPER = 1e-3
"""What H100's FP8 sums are off by at K = 7168."""

ENGINE = Path(gate_up_bf16=True, contributions_bf16=True)
PATHS = {
    "ours": (Format.INT8, Path(exact_division=True)),
    "sglang int8": (Format.INT8, replace(ENGINE, silu_bf16=True)),
    "vllm int8": (Format.INT8, ENGINE),
    "sglang fp8 on Hopper": (
        Format.FP8_OCP,
        replace(ENGINE, silu_bf16=True, exact_division=True, sums=HOPPER),
    ),
    "vllm fp8 on Hopper": (Format.FP8_OCP, replace(ENGINE, exact_division=True, sums=HOPPER)),
    "fp8 on gfx942": (Format.FP8, replace(ENGINE, exact_division=True)),
    "sglang fp8 in blocks on Hopper": (
        Format.FP8_OCP_BLOCKS,
        replace(ENGINE, silu_bf16=True, exact_division=True, sums=HOPPER * (128 / 7168) ** 0.5),
    ),
    "fp8 in blocks on gfx942": (Format.FP8_BLOCKS, replace(ENGINE, exact_division=True)),
    "bf16": (Format.BF16, replace(ENGINE, silu_bf16=True)),
    "int4 in groups": (Format.GROUPED, ENGINE),
    "humming in groups, stream-K": (Format.GROUPED_128, replace(ENGINE, slices=4)),
    "humming by channel": (Format.INT8_BF16_SCALES, replace(ENGINE, scaled_bf16=True)),
    "humming by channel, stream-K": (Format.INT8_BF16_SCALES, replace(ENGINE, slices=10, scaled_bf16=True)),
}


@dataclass
class Kernels:
    """An engine's kernels in torch, with a path's roundings.

    Attributes:
        shown: whether a layer's launch shows its intermediate.
    """

    form: Format
    path: Path
    shown: bool = True

    def launch(self, what: What, weights: LogicalWeights, inputs: Activations, step: Step) -> Launch:
        slots, width = inputs.a2.flatten(0, 1).shape
        rows = (slots, width) if what is What.STAGE1 else tuple(inputs.hidden.shape)
        out = Output.allocate(rows, "cpu")
        middle = torch.zeros((slots, width), dtype=torch.bfloat16)

        def run() -> None:
            if what is not What.STAGE2:
                a1, scale = inputs.a1, inputs.a1_scale
                if what is What.LAYER:
                    a1, scale = quantise(self.form, inputs.hidden)
                self._stage1(weights, a1, scale, step, out.tensor if what is What.STAGE1 else middle)
            if what is What.LAYER:
                self._stage2(weights, *quantise(self.form, middle), step, out.tensor)
            if what is What.STAGE2:
                a2, scale = inputs.a2.flatten(0, 1), inputs.a2_scale.flatten(0, 1)
                self._stage2(weights, a2, scale, step, out.tensor)

        shown = middle if self.shown and what is What.LAYER else None
        return Launch(run, out.tensor, scratch=(middle,), guards=out.guards, intermediate=shown)

    def _stage1(self, w: LogicalWeights, a: Any, scale: Any, step: Step, into: torch.Tensor) -> None:
        w_scale = weight_scales(self.form, w.w1_scale, LAYER.model_dim)
        by_slot = w_scale[step.ids.reshape(-1)] if self.path.scaled_bf16 else None
        sums = self._gemm(a, by_slot, lambda a: gate_up_reference(a, scale, w.w1, w_scale, step.ids))
        noise = torch.randn(sums.shape, generator=torch.Generator().manual_seed(77))
        sums += self.path.sums * noise * sums.abs().clamp(min=0.4 * float(sums.square().mean().sqrt()))
        gate, up = (sums.bfloat16().float() if self.path.gate_up_bf16 else sums).chunk(2, dim=1)
        activated = torch.nn.functional.silu(gate)
        into.copy_((activated.bfloat16().float() if self.path.silu_bf16 else activated) * up)

    def _stage2(self, w: LogicalWeights, a: Any, scale: Any, step: Step, into: torch.Tensor) -> None:
        w_scale = weight_scales(self.form, w.w2_scale, LAYER.inter_dim)
        slots = step.ids.numel()
        ids, router = step.ids.view(slots, 1), step.router.reshape(slots, 1)
        by_slot = w_scale[step.ids.reshape(-1)] * router if self.path.scaled_bf16 else None
        parts = self._gemm(a, by_slot, lambda a: stage2_reference(a, scale, w.w2, w_scale, ids, router))
        parts = parts.bfloat16().float() if self.path.contributions_bf16 else parts
        into.copy_(parts.view(*step.ids.shape, -1).sum(dim=1))

    def _gemm(
        self, a: torch.Tensor, by_slot: torch.Tensor | None, product: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """A GEMM's output, its slices along K rounded and added one by one where the path has any.

        Args:
            by_slot: the scales that meet a rounded sum, [slots, N]; None: nothing is rounded before.
        """

        def rounded(x: torch.Tensor) -> torch.Tensor:
            return x.bfloat16().float()

        def part(piece: torch.Tensor) -> torch.Tensor:
            out = product(piece)
            return rounded(rounded(out / by_slot) * by_slot) if by_slot is not None else out

        if self.path.slices == 1:
            return part(a)
        depth, total = -(-a.shape[1] // self.path.slices), None
        for start in range(0, a.shape[1], depth):
            piece = torch.zeros_like(a)
            piece[:, start : start + depth] = a[:, start : start + depth]
            total = rounded(part(piece)) if total is None else rounded(total + rounded(part(piece)))
        assert total is not None
        return total

    def of(self, what: What) -> Path:
        """As a runtime tells it."""
        layer = what is What.LAYER
        contributions = self.path.contributions_bf16 and what is not What.STAGE1
        return replace(self.path, contributions_bf16=contributions, requantised=layer)

    def check(self, what: What, weights: LogicalWeights, case: Case, inputs: Any, step: Step) -> float:
        launch = self.launch(what, weights, inputs, step)
        return check_launches([launch], [case], what, self.of(what), times=1)


@pytest.fixture(scope="module")
def weights() -> LogicalWeights:
    torch.set_num_threads(1)
    return make_weights(LAYER, "cpu", seed=0)


@pytest.fixture(scope="module")
def faults() -> Callable[..., Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        from prove_gate import faults

        return faults


@pytest.mark.parametrize("shown", [True, False], ids=["by halves", "as a whole"])
@pytest.mark.parametrize("name", PATHS)
def test_what_a_path_really_rounds_passes(name: str, shown: bool, weights: LogicalWeights) -> None:
    kernels = Kernels(*PATHS[name], shown=shown)
    for tokens in (1, 16):
        cases = make_cases(
            LAYER, weights, tokens, None, 1, "cpu", tokens, thorough=tokens == 1, form=kernels.form
        )
        for case in cases:
            for what in GATED:
                kernels.check(what, weights, case, case.inputs, case.step)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        # Every slice of a stream-K sum is rounded: those of 16 tokens take seconds.
        *(
            pytest.param(name, tokens, marks=pytest.mark.slow if "stream-K" in name and tokens > 1 else [])
            for name in PATHS
            for tokens in (1, 16)
        ),
        ("sglang fp8 on Hopper", 160),
    ],
)
def test_one_planted_fault_is_refused_in_a_stage_and_in_the_layer(
    name: str, tokens: int, weights: LogicalWeights, faults: Callable[..., Any]
) -> None:
    kernels = Kernels(*PATHS[name])
    case = make_cases(LAYER, weights, tokens, None, 1, "cpu", 5, thorough=False, form=kernels.form)[0]
    passed = []
    for fault in faults(weights, case):
        for what in fault.seen:
            try:
                kernels.check(what, fault.weights, case, fault.inputs, fault.step)
                passed.append(f"{fault.name} in {what}")
            except Incorrect:
                pass
    assert not passed
