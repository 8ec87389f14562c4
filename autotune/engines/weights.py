"""One layer's experts as an engine's kernels take them, made from the same logical INT4 weights.

What is widened holds the same numbers; what comes in bfloat16 holds the product with the scale, which is
exact (`formats.weight_scales`). So every kernel is judged by the same reference.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from autotune.engines.dtypes import Dtype
from autotune.kernels.formats import BLOCK, Format, weight_scales
from autotune.protocol.runtime import LogicalWeights

if TYPE_CHECKING:
    import torch

ZERO_POINT: Final = 8
"""What both engines' kernels take from a packed INT4 that comes without zero points of its own."""


@dataclass(frozen=True)
class EngineWeights:
    """Packed or widened experts, on the device.

    Attributes:
        w1: [experts, 2 * inter_dim, model_dim] of int8, float8 or bfloat16; INT4: uint8 [.., model_dim // 2].
        w1_scale: float32 [experts, 2 * inter_dim, 1]; INT4: bfloat16 [experts, 2 * inter_dim, groups]; in
            blocks float32 [experts, 2 * inter_dim // BLOCK, model_dim // BLOCK]; None: bfloat16 weights have
            none.
        w2: [experts, model_dim, inter_dim] likewise.
        w2_scale: likewise.
    """

    w1: "torch.Tensor"
    w1_scale: "torch.Tensor | None"
    w2: "torch.Tensor"
    w2_scale: "torch.Tensor | None"

    def clone(self) -> "EngineWeights":
        """A physical copy with the same numbers."""
        scales = [None if t is None else t.clone() for t in (self.w1_scale, self.w2_scale)]
        return replace(self, w1=self.w1.clone(), w1_scale=scales[0], w2=self.w2.clone(), w2_scale=scales[1])

    def digest(self) -> int:
        """Changes when a byte does."""
        import torch

        tensors = (self.w1, self.w1_scale, self.w2, self.w2_scale)
        held = (t.flatten().view(torch.int16) for t in tensors if t is not None)
        return sum(int(words.sum(dtype=torch.int64)) for words in held)


def engine_weights(weights: LogicalWeights, dtype: Dtype, form: Format) -> EngineWeights:
    """The experts in an engine's layout.

    Raises:
        UserError: a GEMM's K is no whole number of pairs of groups, which grouped INT4 needs.
    """
    w1, w1_scale = _laid(weights.w1, weights.w1_scale, dtype, form)
    w2, w2_scale = _laid(weights.w2, weights.w2_scale, dtype, form)
    return EngineWeights(w1, w1_scale, w2, w2_scale)


def _laid(
    packed: "torch.Tensor", by_channel: "torch.Tensor", dtype: Dtype, form: Format
) -> "tuple[torch.Tensor, torch.Tensor | None]":
    import torch

    from autotune.kernels.layout import unpack_int4

    experts, n, half = packed.shape
    int4, held = dtype.weights == "int4", dtype.held(form)
    scales = weight_scales(form, by_channel, 2 * half)
    laid = torch.empty((experts, n, half if int4 else 2 * half), dtype=held, device=packed.device)
    for expert in range(experts):  # one at a time: unpacked, a layer's would take gigabytes
        values = unpack_int4(packed[expert])
        if int4:
            # K's even values in the low nibbles, its odd ones in the high.
            offset = (values + ZERO_POINT).view(torch.uint8)
            laid[expert] = offset[:, 0::2] | (offset[:, 1::2] << 4)
        elif not dtype.quantised:
            laid[expert] = values.float() * scales[expert][:, None]
        else:
            laid[expert] = values if held == torch.int8 else values.float().to(held)
    if not dtype.quantised:
        return laid, None
    if dtype.blocks:
        return laid, scales[:, :, ::BLOCK].transpose(1, 2).contiguous()
    return laid, scales.transpose(1, 2).contiguous() if dtype.group else scales[..., None]
