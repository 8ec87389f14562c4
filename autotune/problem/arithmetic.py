"""Compares what a model's routed experts compute, and in which numbers, with a backend's kernels.

A layer's `Needs` come from its model's config.json (`model_config`); a backend declares `Computes`.
What is in the one and not in the other is refused by name: an unknown activation or format is no known one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Scales(StrEnum):
    """Which values of an expert's weights share a scale."""

    TENSOR = "per tensor"
    CHANNEL = "per channel"
    GROUP = "per group"
    BLOCK = "per block"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Scheme:
    """How a checkpoint holds its experts.

    Attributes:
        weights: `int4`, `int8`, `fp8`, `mxfp4`, …; a format that is not known is named as the config has it.
        scales: which weights share a scale.
        block: (N, K) values of a block, or (1, K) of a group; None: by channel or tensor.
        activations: what is multiplied: `bf16`, `int8`, `fp8`, …
        static: activations' scales were fixed beforehand, one a tensor; else each token has its own.
        zero_points: weights have zero points besides scales.
        source: keys and values of the config, for people.
    """

    weights: str
    scales: Scales = Scales.CHANNEL
    block: tuple[int, int] | None = None
    activations: str = "bf16"
    static: bool = False
    zero_points: bool = False
    source: str = field(default="", compare=False)

    def __str__(self) -> str:
        sizes = ""
        if self.scales is Scales.UNKNOWN:
            return f"{self.weights} weights"
        if self.block is not None:
            sizes = f" of {self.block[1]}" if self.scales is Scales.GROUP else f" of {list(self.block)}"
        zeros = " and zero points" if self.zero_points else ""
        how = " with fixed scales" if self.static else ""
        return f"{self.weights} weights, a scale {self.scales}{sizes}{zeros}, times {self.activations}{how}"


W4A8: Final = (
    Scheme("int4", Scales.CHANNEL, None, "int8"),
    # Quark's Kimi-K2.5-W4A8 declares FP8 activations; its kernels take INT8 or FP8 ones by a variable.
    Scheme("int4", Scales.CHANNEL, None, "fp8"),
)
"""Checkpoints of INT4 weights by channel with 8-bit activations by token."""


GROUPED_INT4: Final = Scheme("int4", Scales.GROUP, (1, 32))
"""Kimi-K2.5 as it is published: groups of 32 along K, bfloat16 activations."""


@dataclass(frozen=True)
class Needs:
    """What a model's routed experts compute, where it is not SiLU(gate) * up of unquantised weights.

    Attributes:
        activation: `silu`, or the activation's name as the config has it.
        gated: stage 1 has a gate and an up half; else one matrix and N = inter_dim.
        limit: gate and up are clamped before they are multiplied.
        bias: the experts' GEMMs have a bias.
        weighted_input: router weights multiply the input, before stage 1.
        scheme: how the checkpoint holds the experts; None: it is not quantised.
        sources: (attribute, `key=value` of the config), for people.
    """

    activation: str = "silu"
    gated: bool = True
    limit: float | None = None
    bias: bool = False
    weighted_input: bool = False
    scheme: Scheme | None = None
    sources: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def source(self, attribute: str) -> str:
        """Where an attribute was read."""
        return dict(self.sources).get(attribute, attribute)


PLAIN: Final = Needs()


@dataclass(frozen=True)
class Computes:
    """What a backend's kernels compute: SiLU(gate) * up without bias, and nothing else unless it is here.

    Attributes:
        words: the weights and activations, for people.
        schemes: checkpoints whose experts the kernels take; a checkpoint that is not quantised is always
            taken, since whoever names a quantised backend for it quantises it himself.
        activations: of the gate.
        ungated, limit, bias, weighted_input: whether they are computed; see `Needs`.
        strict: a config that breaks a rule of the space gives wrong numbers, and the runtime refuses it: what
            ships must be legal, too.
        layout: why weights of (N, K) have no place in the kernels' layout, a sentence; None: they have.
        spread: why experts cannot be spread over GPUs with `--tp` and `--ep`, a sentence; None: they can.
    """

    words: str
    schemes: tuple[Scheme, ...] = ()
    activations: frozenset[str] = frozenset({"silu"})
    ungated: bool = False
    limit: bool = False
    bias: bool = False
    weighted_input: bool = False
    strict: bool = False
    layout: Callable[[int, int], str | None] = lambda n, k: None
    spread: Callable[[int, int], str | None] = lambda tp, ep: "it is not known to take them"


def refusals(computes: Computes, needs: Needs) -> Iterator[str]:
    """What a model needs and the kernels do not compute, a clause each: value and key, then what they do."""
    if needs.activation not in computes.activations:
        does = " or ".join(sorted(computes.activations))
        yield f"{needs.source('activation')} (the kernels compute {does})"
    if not needs.gated and not computes.ungated:
        yield (
            f"experts without a gate, {needs.source('gated')} (the kernels compute act(gate) * up, of"
            " 2 * inter_dim rows in stage 1, not of inter_dim)"
        )
    if needs.limit is not None and not computes.limit:
        yield f"clamped activations, {needs.source('limit')} (the kernels do not clamp)"
    if needs.bias and not computes.bias:
        yield f"a bias in the experts, {needs.source('bias')} (the kernels add none)"
    if needs.weighted_input and not computes.weighted_input:
        yield (
            f"router weights on the input, {needs.source('weighted_input')} (the kernels multiply stage 2's"
            " output by them)"
        )
    if needs.scheme is not None and needs.scheme not in computes.schemes:
        where = f" ({needs.scheme.source})" if needs.scheme.source else ""
        yield f"{needs.scheme}{where}: the kernels take {computes.words}"
