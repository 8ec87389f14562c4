"""Builds what is launched: one layer's weights on the device, and the passes of routings over them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from autotune.errors import UserError
from autotune.kernels.formats import Format
from autotune.measure.ring import Ring, hot, plan_ring
from autotune.measure.settings import MeasureSettings
from autotune.problem.arithmetic import W4A8
from autotune.problem.layer import Layer, Problem, Stage, WeightBytes, gemm_dims
from autotune.protocol.runtime import Activations, LogicalWeights, Machine, Runtime, Step, format_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

GIB = 1 << 30
SPARE_BYTES = GIB // 2
"""Left free for outputs, partial sums, references and graphs."""
_LOGICAL = WeightBytes.of(W4A8[0])
"""Of `LogicalWeights`, which every kernel's are made from and none has fewer bytes than."""


def expert_bytes(layer: Layer) -> int:
    """Bytes of one expert's INT4 weights and float32 scales at the stage where it has fewer.

    A ring that is cold for that stage is colder for the other one and for the layer.
    """
    return round(min(_LOGICAL.expert(layer, stage) for stage in Stage))


def plan(problem: Problem, settings: MeasureSettings, cache_bytes: int, seed: int) -> Ring:
    """The pass of a problem.

    Args:
        seed: of the routings. The same seed gives the same pass; a confirmation uses others.

    Raises:
        UserError: the routing does not fit, or the layer is too small to be kept cold.
    """
    layer = problem.layer

    def draw(steps: int) -> "NDArray[np.int32]":
        return problem.draw(steps, seed)

    if not settings.cold:
        return hot(draw(1), settings.steps)
    distance = int(settings.cold * cache_bytes)
    ring = plan_ring(
        draw,
        experts=layer.experts,
        expert_bytes=expert_bytes(layer),
        distance=distance,
        min_steps=settings.steps,
        seed=settings.seed,
    )
    assert ring.reuse_bytes > distance, "the ring does not keep the weights cold"
    return ring


def memory_needed(layer: Layer, copies: int, packed_bytes: int, max_tokens: int) -> int:
    """Device bytes that measuring takes: weights, copies, activations and intermediate results."""
    # A slot's float32 partial sums of both stages, eight splits, and as much for references and graphs.
    slot = 4 * 8 * (2 * layer.inter_dim + layer.model_dim)
    return _LOGICAL.copy(layer) + copies * packed_bytes + 2 * max_tokens * layer.top_k * slot + SPARE_BYTES


def check_memory(
    layer: Layer, copies: int, packed_bytes: int, tokens: Sequence[int], free: int, settings: MeasureSettings
) -> None:
    """Refuses what the device cannot hold.

    Args:
        tokens: all counts that will be measured.

    Raises:
        UserError: too little memory; names the option that needs less.
    """
    needed, least = (
        memory_needed(layer, copies, packed_bytes, count) for count in (max(tokens), min(tokens))
    )
    if needed <= free:
        return
    if least <= free:
        larger = f"the {max(tokens)} tokens (--shape, --concurrency or, of a run, --guards)"
        remedy = f"leave out {larger}, or free the GPU"
    elif copies > 1:
        caches = f"{settings.cold:g} caches' worth of weights, {copies} copies"
        remedy = f"lower --cold (now {caches}), or free the GPU"
    else:
        remedy = f"raise {'--ep' if layer.ep > 1 else '--tp'} (now {layer.parallel}), or free the GPU"
    raise UserError(
        f"measuring {layer.model} needs {needed / GIB:.1f} GiB of GPU memory and {free / GIB:.1f} are free:"
        f" {remedy}"
    )


def make_weights(layer: Layer, device: str, seed: int) -> LogicalWeights:
    """Random experts, all distinct; made on the device, in milliseconds.

    Every byte is uniform, so every INT4 from -8 to 7 is. Scales differ by up to four from channel to
    channel: a kernel that leaves one out, or takes a neighbour's, is far off.
    """
    import torch

    generator = torch.Generator(device).manual_seed(seed)

    def packed(rows: int, k: int) -> "torch.Tensor":
        shape = (layer.experts, rows, k // 2)
        return torch.randint(-128, 128, shape, dtype=torch.int8, device=device, generator=generator)

    def scales(rows: int, k: int) -> "torch.Tensor":
        spread = torch.rand((layer.experts, rows), device=device, generator=generator)
        # A row of K random INT4 (deviation 4.6) then has outputs of order one.
        values: torch.Tensor = torch.exp2(2 * spread - 1) / (4.6 * k**0.5)
        return values

    (n1, k1), (n2, k2) = (gemm_dims(layer, stage) for stage in Stage)
    return LogicalWeights(packed(n1, k1), scales(n1, k1), packed(n2, k2), scales(n2, k2))


def make_activations(
    layer: Layer, tokens: int, device: str, seed: int, form: Format = Format.INT8
) -> Activations:
    """Random tokens, whose magnitudes differ by up to four: a wrong row's scale shows."""
    import torch

    from autotune.kernels.formats import quantise

    generator = torch.Generator(device).manual_seed(seed)

    def rows(count: int, width: int) -> "torch.Tensor":
        spread = torch.rand((count, 1), device=device, generator=generator)
        noise = torch.randn((count, width), device=device, generator=generator)
        return (noise * torch.exp2(2 * spread - 1)).bfloat16()

    hidden = without_ties(rows(tokens, layer.model_dim), form)
    a1, a1_scale = quantise(form, hidden)
    a2, a2_scale = quantise(form, rows(tokens * layer.top_k, layer.inter_dim))
    slots = (tokens, layer.top_k)
    return Activations(
        *(hidden, a1, a1_scale),
        *(a2.view(*slots, -1), a2_scale.view(*slots, *a2_scale.shape[1:])),
    )


def without_ties(x: "torch.Tensor", form: Format = Format.INT8) -> "torch.Tensor":
    """`x` with zeros where its quantisation would be a matter of taste.

    A value half-way between two integers goes one way or the other by the last bit of a division, which a GPU
    may approximate: bfloat16 inputs hit that once in a few hundred values, and each costs as much as all of
    a layer's other roundings together.

    Args:
        x: bfloat16 [rows, width].
    """
    from autotune.kernels.formats import ties

    return x.masked_fill(ties(form, x), 0.0)


def make_steps(
    ids: "NDArray[np.int32]", copies: "NDArray[np.int32]", device: str, seed: int
) -> tuple[Step, ...]:
    """Routings on the device, with random router weights that sum to one a token.

    Args:
        ids: [steps, tokens, top_k].
        copies: [steps], the copy of the weights that each step reads.
    """
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    on_device = torch.from_numpy(np.ascontiguousarray(ids)).to(device)
    # Between 1 and e before they are normalised: none is so small that its expert could be left out unseen.
    router = torch.softmax(torch.rand(ids.shape, device=device, generator=generator), dim=-1)
    return tuple(
        Step(int(copy), step_ids, step_router)
        for copy, step_ids, step_router in zip(copies, on_device, router, strict=True)
    )


@dataclass(frozen=True, eq=False)
class Pass:
    """One problem's steps, ready to launch.

    Attributes:
        ring: how they were laid.
    """

    inputs: Activations
    steps: tuple[Step, ...]
    ring: Ring


class Workload:
    """A layer's weights on the device and the passes over them, made when they are first asked for."""

    def __init__(self, runtime: Runtime, layer: Layer, settings: MeasureSettings) -> None:
        self._runtime, self._machine = runtime, runtime.machine
        self.layer, self._settings = layer, settings
        self._copies = 0
        self._passes: dict[tuple[str, int, int | None], Pass] = {}
        self.weights: LogicalWeights | None = None

    def load(self, problems: "tuple[Problem, ...]") -> None:
        """Puts the weights on the device, with the copies that `problems` need.

        Raises:
            UserError: too little memory, or a routing that does not fit.
        """
        machine: Machine = self._machine
        plans = [self._plan(problem, self._settings.seed) for problem in problems]
        # One more where there are several: another seed's routings may need a little more room.
        copies = max((ring.count for ring in plans), default=1)
        copies += copies > 1
        packed = self._runtime.packed_bytes(self.layer)
        tokens = [problem.tokens for problem in problems] or [1]
        check_memory(self.layer, copies, packed, tokens, machine.free_bytes(), self._settings)
        self.weights = make_weights(self.layer, machine.device, self._settings.seed)
        self._runtime.prepare(self.layer, self.weights)
        self._grow(copies)

    def pass_of(self, problem: Problem, seed: int, steps: int | None = None) -> Pass:
        """The pass of a problem with the routings of `seed`. The latest few are kept.

        Args:
            steps: that it has at least; None: as the settings say.
        """
        key = (problem.key, seed, steps)
        if key not in self._passes:
            ring = self._plan(problem, seed, steps)
            self._grow(ring.count)
            device = self._machine.device
            form = format_of(self._runtime)
            inputs = make_activations(self.layer, problem.tokens, device, self._settings.seed, form)
            built = Pass(inputs, make_steps(ring.ids, ring.copies, device, seed), ring)
            while len(self._passes) >= 16:
                del self._passes[next(iter(self._passes))]
            self._passes[key] = built
        return self._passes[key]

    def _plan(self, problem: Problem, seed: int, steps: int | None = None) -> Ring:
        settings = replace(self._settings, steps=steps or self._settings.steps)
        return plan(problem, settings, self._machine.last_level_cache(), seed)

    def _grow(self, copies: int) -> None:
        if copies > self._copies:
            self._runtime.grow(copies)
            self._copies = copies

    def forget_passes(self) -> None:
        """Makes passes anew when they are next asked for."""
        self._passes.clear()
