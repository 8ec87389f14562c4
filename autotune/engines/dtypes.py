"""The dtypes of the engines' Triton fused MoE: a line here and a row in an engine's package add one.

What a kernel computes, how its weights are laid out, which reference judges it and how many bytes it reads
follow from the line; what is in the row besides is the engine's own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from autotune.kernels.formats import (
    BLOCK,
    GROUP,
    GROUPS,
    Format,
    block_misfit,
    float8,
    grouped_misfit,
    misfit,
    wide_grouped_misfit,
)
from autotune.problem.arithmetic import Computes, Scales, Scheme
from autotune.problem.layer import WeightBytes

if TYPE_CHECKING:
    import torch

_WORDS: Final = {"int4": "INT4", "int8": "INT8", "fp8": "FP8", "bf16": "bfloat16"}
_SELECTORS: Final = ("fp8_w8a8", "int8_w8a8", "int8_w8a16", "int4_w4a16")
"""Without a default in the signatures of SGLang 0.5.23 and vLLM 0.33.0."""
_ACTIVATION_BYTES: Final = {"int8": 1.0, "fp8": 1.0, "bf16": 2.0}


@dataclass(frozen=True)
class Dtype:
    """What an engine's kernel multiplies.

    Attributes:
        selector: the engine's name for it, as in `use_int8_w8a8` and in its files' names; None: it has none,
            nothing is quantised.
        weights: as the engine holds them: `int4` in pairs, `int8`, `fp8` or `bf16`.
        activations: `int8` or `fp8` with a scale a token, or `bf16`.
        group: values of K that share a bfloat16 scale; 0: an output channel has one, in float32.
        blocks: a square of `BLOCK` weights, and as many values of an activation's row, share a float32 scale.
    """

    selector: str | None
    weights: str
    activations: str = "bf16"
    group: int = 0
    blocks: bool = False

    def __post_init__(self) -> None:
        by_token = self.activations != "bf16"
        if (
            (self.weights == "fp8") != (self.activations == "fp8")
            or (by_token and (self.group or not self.quantised))
            or self.group not in (0, *GROUPS.values())
            or (self.blocks and self.weights != "fp8")
        ):
            raise ValueError(f"{self.selector}: no reference judges such a kernel, see kernels/formats.py")

    @property
    def quantised(self) -> bool:
        """Whether the weights have scales."""
        return self.weights != "bf16"

    @property
    def scheme(self) -> Scheme | None:
        """Checkpoints whose experts it takes as they are; None: those that are not quantised."""
        if not self.quantised:
            return None
        if self.blocks:
            return Scheme(
                self.weights, Scales.BLOCK, (BLOCK, BLOCK), f"{self.activations} in groups of {BLOCK}"
            )
        if self.group:
            return Scheme(self.weights, Scales.GROUP, (1, self.group), self.activations)
        return Scheme(self.weights, Scales.CHANNEL, None, self.activations)

    @property
    def computes(self) -> Computes:
        """What a model may need of it."""
        if self.scheme is None:
            return Computes("bfloat16 weights and activations", layout=misfit)
        scale = f"every {self.group} values of K and no zero points" if self.group else "a channel"
        by = "" if self.activations == "bf16" else " by token"
        if self.blocks:
            scale, by = f"a block of {BLOCK} by {BLOCK}", f" in groups of {BLOCK}"
        return Computes(
            f"{_WORDS[self.weights]} weights, a scale {scale},"
            f" times {_WORDS[self.activations]} activations{by}",
            (self.scheme,),
            layout=self._misfit,
        )

    def _misfit(self, n: int, k: int) -> str | None:
        if self.blocks:
            return block_misfit(n, k)
        if self.group == GROUP:
            return grouped_misfit(n, k)
        return wide_grouped_misfit(self.group, n, k) if self.group else misfit(n, k)

    @property
    def weight_bytes(self) -> WeightBytes:
        """Bytes of weights with their scales."""
        return WeightBytes.of(self.scheme)

    @property
    def activation_bytes(self) -> float:
        """Bytes of an activation, as the GEMM takes it."""
        return _ACTIVATION_BYTES[self.activations]

    def format(self, arch: str) -> Format:
        """What the kernel multiplies on a GPU, by which the numeric gate judges it.

        Args:
            arch: `gfx942`, `sm_90`, …
        """
        match self.activations:
            case "int8":
                return Format.INT8
            case "fp8" if self.blocks:
                return Format.FP8_BLOCKS if arch.startswith("gfx94") else Format.FP8_OCP_BLOCKS
            case "fp8":
                return Format.FP8 if arch.startswith("gfx94") else Format.FP8_OCP
        return next((form for form, size in GROUPS.items() if size == self.group), Format.BF16)

    def switches(self) -> dict[str, bool]:
        """The kernel's arguments by which both engines tell dtypes apart."""
        return {
            f"use_{selector}": selector == self.selector
            for selector in (*_SELECTORS, self.selector)
            if selector
        }

    def held(self, form: Format) -> "torch.dtype":
        """The dtype of the tensor that holds the weights; two of INT4 share a byte."""
        import torch

        if self.weights == "fp8":
            return float8(form)
        return {"int4": torch.uint8, "int8": torch.int8, "bf16": torch.bfloat16}[self.weights]

    def scale_shape(self, n: int, k: int) -> tuple[int, int] | None:
        """Rows and columns of one expert's scales for a GEMM of N by K; None: it has none."""
        if not self.quantised:
            return None
        if self.blocks:
            return n // BLOCK, k // BLOCK
        return n, k // self.group if self.group else 1

    def activation_scales(self, k: int) -> int:
        """Scales of a quantised row of K values."""
        return k // BLOCK if self.blocks else 1


INT8_W8A8: Final = Dtype("int8_w8a8", "int8", "int8")
"""What a W4A8 checkpoint widened to INT8 is."""
INT8_W8A16: Final = Dtype("int8_w8a16", "int8")
INT4_W4A16: Final = Dtype("int4_w4a16", "int4", group=GROUP)
"""Kimi-K2.5 as it is published."""
INT4_G64: Final = Dtype("int4_w4a16", "int4", group=64)
INT4_G128: Final = Dtype("int4_w4a16", "int4", group=128)
"""Most of what is published as GPTQ, or as compressed-tensors' W4A16."""
FP8_W8A8: Final = Dtype("fp8_w8a8", "fp8", "fp8")
"""Checkpoints called FP8-dynamic."""
FP8_BLOCK: Final = Dtype("fp8_w8a8", "fp8", "fp8", blocks=True)
"""DeepSeek-V3 and its like, GLM, Qwen-FP8, MiniMax as they are published: `weight_block_size=[128, 128]`."""
BF16: Final = Dtype(None, "bf16")
"""A model that is not quantised."""
