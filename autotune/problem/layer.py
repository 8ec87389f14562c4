"""The problem that is tuned: the two GEMM stages of one MoE layer at a number of tokens."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import UserError
from autotune.problem.arithmetic import Needs, Scales, Scheme
from autotune.problem.models import Model
from autotune.problem.routing import UNIFORM, Routing
from autotune.text import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_VERIFY_TOKENS = 8


class Stage(StrEnum):
    """A GEMM stage of the layer."""

    STAGE1 = "stage1"  # gate_up + SiLU(gate) * up
    STAGE2 = "stage2"  # down + router-weighted sum


@dataclass(frozen=True)
class Layer:
    """One GPU's share of an MoE layer under tensor and expert parallelism.

    Attributes:
        model: the model's name.
        model_dim: hidden size, elements: stage 1's K, stage 2's N.
        inter_dim: an expert's intermediate size on this GPU, elements: half of stage 1's N, stage 2's K.
        experts: experts on this GPU.
        top_k: experts that a token visits, wherever they are.
        tp: tensor-parallel degree of the model, as the engines are told it.
        needs: what the model's experts compute and how its checkpoint holds them; None: plain, or not known.
            It decides which backends are refused, and is no part of what a layer is: what is computed is the
            backend's.
        ep: expert-parallel degree: this many GPUs have `experts` each.
    """

    model: str
    model_dim: int
    inter_dim: int
    experts: int
    top_k: int
    tp: int
    needs: Needs | None = field(default=None, compare=False)
    ep: int = 1

    @property
    def dims(self) -> dict[str, Any]:
        """The fields that make two layers equal; those that came later only where they say something."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        return {name: value for name, value in held.items() if name != "ep" or value > 1}

    @property
    def routed(self) -> int:
        """Experts that a token can visit, on all GPUs."""
        return self.experts * self.ep

    @property
    def split(self) -> int:
        """GPUs that share an expert."""
        return max(1, self.tp // self.ep)

    @property
    def parallel(self) -> str:
        """The degrees as the user gives them: `--tp 8`, `--tp 8 --ep 8`."""
        return f"--tp {self.tp}" + (f" --ep {self.ep}" if self.ep > 1 else "")

    @classmethod
    def of(cls, model: Model, tp: int, ep: int = 1) -> "Layer":
        """Spreads the experts of `model` over `ep` GPUs, and splits each over those that are left of `tp`.

        The degrees are what SGLang and vLLM are told. Of 8 GPUs with `--tp 8 --ep 4` two share an expert;
        with an `--ep` as great as `--tp`, or a multiple of it (attention is data-parallel then), experts are
        whole.

        Raises:
            UserError: a split is not even, or leaves an odd dimension, which INT4 pairs cannot hold.
        """
        if ep > 1 and model.experts % ep:
            fits = ", ".join(str(d) for d in range(2, model.experts + 1) if model.experts % d == 0)
            raise UserError(
                f"--ep {ep} does not spread {model.name}'s {model.experts} experts evenly: use one of {fits}"
            )
        if tp >= 1 and (ep < 1 or (tp % ep and ep % tp)):
            raise UserError(
                f"--tp {tp} --ep {ep} leaves no whole number of GPUs to an expert: give an --ep that divides"
                " --tp, or is a multiple of it"
            )
        split = max(1, tp // ep)
        if tp < 1 or model.moe_intermediate % split or (model.moe_intermediate // split) % 2:
            fits = ", ".join(str(d * ep) for d in range(1, 65) if model.moe_intermediate % (2 * d) == 0)
            remedy = (
                f"use one of {fits}" if fits else "none does, as it is odd and INT4 weights come in pairs"
            )
            raise UserError(
                f"--tp {tp}{f' --ep {ep}' if ep > 1 else ''} does not split {model.name}'s intermediate size"
                f" {model.moe_intermediate} evenly: {remedy}"
            )
        return cls(
            *(model.name, model.model_dim, model.moe_intermediate // split, model.experts // ep),
            *(model.top_k, tp, model.needs, ep),
        )

    @property
    def title(self) -> str:
        """For people: the model, and over how many GPUs it is split."""
        return f"{Path(self.model).name} TP {self.tp}" + (f" EP {self.ep}" if self.ep > 1 else "")

    @property
    def key(self) -> str:
        """Canonical text of everything that a kernel compiled for this layer depends on."""
        dims = f"d{self.model_dim}.i{self.inter_dim}.e{self.experts}.k{self.top_k}"
        spread = f".ep{self.ep}" if self.ep > 1 else ""
        return f"{self.model}/tp{self.tp}{spread}/{dims}"

    def seen(self, ids: "NDArray[np.int32]") -> "NDArray[np.int32]":
        """Ids of all experts, of any shape, as the first of the GPUs has them: e of another one is -1 - e."""
        import numpy as np

        return np.where(ids < self.experts, ids, -1 - ids)

    def spread_as(self, key: str) -> "Layer":
        """The layer with the expert-parallel degree that a key of it, or of a problem of it, has."""
        spread = re.match(rf"{re.escape(self.model)}/tp{self.tp}\.ep(\d+)/", key)
        return replace(self, ep=int(spread[1])) if spread else self


@dataclass(frozen=True)
class Problem:
    """A layer at a number of tokens with a routing.

    Attributes:
        verify_tokens: draft tokens verified a sequence (the M of `m4`).
        concurrency: sequences in flight; the layer sees `tokens` = verify_tokens * concurrency. Under expert
            parallelism these are the sequences of all GPUs whose tokens meet in the layer.
    """

    layer: Layer
    verify_tokens: int
    concurrency: int = 1
    routing: Routing = UNIFORM

    @property
    def tokens(self) -> int:
        """Tokens that the layer sees in a step."""
        return self.verify_tokens * self.concurrency

    @property
    def shape(self) -> str:
        """Short name for tables: `m4`, or `m4 x40` with 40 sequences in flight."""
        return f"m{self.verify_tokens}" + (f" x{self.concurrency}" if self.concurrency > 1 else "")

    @property
    def tokens_text(self) -> str:
        """`1 token`, `160 tokens`."""
        return counted(self.tokens, "token")

    @property
    def key(self) -> str:
        """Canonical text; two problems with equal keys are the same problem."""
        return f"{self.layer.key}/m{self.verify_tokens}.c{self.concurrency}/{self.routing.key}"

    def expected_experts(self) -> float:
        """Distinct experts of this GPU that one step touches under uniform routing.

        e * (1 - (1 - k/E)^T): each of T tokens misses a given one of all E experts with probability 1 - k/E.
        """
        layer = self.layer
        return layer.experts * (1 - (1 - layer.top_k / layer.routed) ** self.tokens)

    def expected_slots(self) -> float:
        """Of the tokens' choices of experts, those that fall on this GPU's under uniform routing."""
        return self.tokens * self.layer.top_k / self.layer.ep

    def expected_tokens(self) -> float:
        """Tokens with a choice on this GPU under uniform routing: all of them without expert parallelism."""
        layer = self.layer
        none = math.comb(layer.routed - layer.experts, layer.top_k) / math.comb(layer.routed, layer.top_k)
        return self.tokens * (1 - none)

    def draw(self, steps: int, seed: int) -> "NDArray[np.int32]":
        """Expert ids of so many steps as this GPU has them, int32 [steps, tokens, top_k].

        Under expert parallelism this is the first of the GPUs, and an expert e of another one is -1 - e.

        Raises:
            UserError: a recording does not fit the layer.
        """
        return self.layer.seen(
            self.routing.draw(
                steps=steps,
                sequences=self.concurrency,
                draft_tokens=self.verify_tokens,
                experts=self.layer.routed,
                top_k=self.layer.top_k,
                seed=seed,
            )
        )


def gemm_dims(layer: Layer, stage: Stage) -> tuple[int, int]:
    """(N, K) of one expert's GEMM at `stage`."""
    if stage is Stage.STAGE1:
        return 2 * layer.inter_dim, layer.model_dim
    return layer.model_dim, layer.inter_dim


@dataclass(frozen=True)
class WeightBytes:
    """How many bytes kernels hold, and read, of the experts' weights.

    Attributes:
        weight: bytes of a weight, with its share of a group's scale.
        row: bytes of scale of an output channel.
    """

    weight: float
    row: float = 0.0

    @classmethod
    def of(cls, scheme: Scheme | None) -> "WeightBytes":
        """As kernels hold a scheme's weights: a channel's and a block's scale is float32, a group's bfloat16.

        Args:
            scheme: of INT4, INT8 or FP8 by channel, in blocks or in groups along K; None: bfloat16 weights.
        """
        if scheme is None:
            return cls(2.0)
        weight = {"int4": 0.5, "int8": 1.0, "fp8": 1.0}[scheme.weights]
        if scheme.scales is Scales.BLOCK:
            assert scheme.block is not None
            return cls(weight + 4 / (scheme.block[0] * scheme.block[1]))
        if scheme.scales is Scales.GROUP:
            assert scheme.block is not None
            return cls(weight + 2 / scheme.block[1])
        return cls(weight, row=4.0)

    def expert(self, layer: Layer, stage: Stage) -> float:
        """Bytes of one expert's weights and scales at `stage`."""
        n, k = gemm_dims(layer, stage)
        return n * (k * self.weight + self.row)

    def copy(self, layer: Layer) -> int:
        """Bytes of one copy of all experts, both stages."""
        return round(layer.experts * sum(self.expert(layer, stage) for stage in Stage))

    def read(self, problem: Problem, stage: Stage) -> float:
        """Expected bytes of weights and scales that one step must read under uniform routing."""
        n, k = gemm_dims(problem.layer, stage)
        return problem.expected_experts() * n * (k * self.weight + self.row)


def parse_shapes(text: str) -> list[int]:
    """Verify tokens from `m4`, `m1,m4` or `all`, ascending and without repeats.

    Raises:
        UserError: a shape outside m1..m8.
    """
    if text.strip() == "all":
        return list(range(1, MAX_VERIFY_TOKENS + 1))
    shapes = set()
    for part in text.split(","):
        name = part.strip()
        digits = name.removeprefix("m")
        if not (
            name.startswith("m")
            and digits.isdecimal()
            and len(digits) < 9
            and 1 <= int(digits) <= MAX_VERIFY_TOKENS
        ):
            raise UserError(
                f"unknown --shape {name!r}: use m1 to m{MAX_VERIFY_TOKENS}, several (m1,m4) or all"
            )
        shapes.add(int(digits))
    return sorted(shapes)


MOST_SEQUENCES = 16_384
"""In flight; beyond what any engine batches, and below where an activation's index leaves 32 bits."""
MOST_TOKENS = MAX_VERIFY_TOKENS * MOST_SEQUENCES


def parse_concurrency(text: str) -> list[int]:
    """Sequences in flight from `40` or `1,40`, ascending and without repeats.

    Raises:
        UserError: not a whole number in the range.
    """
    counts = set()
    for part in text.split(","):
        digits = part.strip()
        if not (digits.isdecimal() and len(digits) <= 18 and 1 <= int(digits) <= MOST_SEQUENCES):
            raise UserError(
                f"--concurrency {digits[:40]!r} is not a number of sequences: use 1 to {MOST_SEQUENCES},"
                " e.g. 1,40"
            )
        counts.add(int(digits))
    return sorted(counts)


def problems(
    layer: Layer, shapes: Iterable[int], concurrency: Iterable[int], routing: Routing
) -> list[Problem]:
    """Every shape at every concurrency, by number of tokens.

    Raises:
        UserError: a recording of routings is not of such a layer at each of them.
    """
    listed = [Problem(layer, m, c, routing) for m in shapes for c in concurrency]
    for problem in listed:
        routing.require(tokens=problem.tokens, experts=layer.routed, top_k=layer.top_k)
    return sorted(listed, key=lambda problem: (problem.tokens, problem.verify_tokens))
