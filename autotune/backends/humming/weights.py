"""One layer's experts in humming's layout, made from the logical INT4 weights by humming itself."""

from typing import TYPE_CHECKING

from autotune.backends.humming import library
from autotune.backends.humming.rows import Row
from autotune.kernels.formats import weight_scales
from autotune.problem.layer import Layer, Stage
from autotune.protocol.runtime import LogicalWeights

if TYPE_CHECKING:
    import torch

_OFFSET = 8  # humming's INT4 without zero points is offset binary


def humming_weights(row: Row, layer: Layer, weights: LogicalWeights) -> LogicalWeights:
    """The experts as vLLM would hold them after loading such a checkpoint; opaque, on the device."""
    w1, w1_scale = _laid(row, layer, Stage.STAGE1, weights.w1, weights.w1_scale)
    w2, w2_scale = _laid(row, layer, Stage.STAGE2, weights.w2, weights.w2_scale)
    return LogicalWeights(w1, w1_scale, w2, w2_scale)


def _laid(
    row: Row, layer: Layer, stage: Stage, packed: "torch.Tensor", by_channel: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    checkpoint = checkpoint_tensors(row, packed, by_channel)
    config = library.layer_config(row, layer, stage)
    laid = library.load("humming.transform").transform_humming_tensors(config, checkpoint)
    return laid["weight"], laid["weight_scale"]


def checkpoint_tensors(
    row: Row, packed: "torch.Tensor", by_channel: "torch.Tensor"
) -> "dict[str, torch.Tensor]":
    """The experts as humming's schema has them before its own transformation.

    Returns:
        `weight`: int32 [experts, N, K // 8], eight values a word, the first in the lowest bits;
        `weight_scale`: bfloat16 [experts, N, groups].
    """
    import torch

    from autotune.kernels.layout import unpack_int4

    experts, n, half = packed.shape
    bytes_ = torch.empty((experts, n, half), dtype=torch.uint8, device=packed.device)
    for expert in range(experts):  # one at a time: unpacked, a layer's would take gigabytes
        values = (unpack_int4(packed[expert]) + _OFFSET).view(torch.uint8)
        bytes_[expert] = values[:, 0::2] | (values[:, 1::2] << 4)
    scales = weight_scales(row.format, by_channel, 2 * half)
    by_row = scales.transpose(1, 2) if row.group else scales[..., None]
    return {"weight": bytes_.view(torch.int32), "weight_scale": by_row.bfloat16().contiguous()}
