"""The engines' layouts hold the numbers that the logical weights do."""

import pytest
import torch

from autotune.backends import sglang, vllm
from autotune.engines.dtypes import FP8_W8A8, INT4_W4A16, Dtype
from autotune.engines.weights import EngineWeights, engine_weights
from autotune.errors import UserError
from autotune.kernels.formats import BLOCK, Format, weight_scales
from autotune.kernels.layout import unpack_int4
from autotune.measure.workload import make_weights
from autotune.problem.layer import Layer
from autotune.protocol.runtime import LogicalWeights

LAYER = Layer("tiny", model_dim=256, inter_dim=128, experts=3, top_k=2, tp=1)
WEIGHTS = make_weights(LAYER, "cpu", seed=1)
DTYPES = list(dict.fromkeys(row.dtype for row in (*sglang.ROWS, *vllm.ROWS)))


def laid(dtype: Dtype, weights: LogicalWeights = WEIGHTS) -> tuple[EngineWeights, Format]:
    form = dtype.format("sm_90")
    return engine_weights(weights, dtype, form), form


def values(w: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """What a kernel makes of them, float32 [experts, N, K]."""
    if scale is None:
        return w.float()
    if scale.shape[1] != w.shape[1]:  # blocks
        return w.float() * scale.repeat_interleave(BLOCK, dim=1).repeat_interleave(BLOCK, dim=2)
    if w.dtype != torch.uint8:
        return w.float() * scale
    # As both engines' kernels unpack: by k % 2, less 8, the scale of k // 32.
    nibbles = torch.stack((w & 0xF, w >> 4), dim=-1).flatten(2)
    return (nibbles.float() - 8) * scale.float().repeat_interleave(w.shape[2] * 2 // scale.shape[2], dim=2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_layout_holds_the_same_experts(dtype: Dtype) -> None:
    made, form = laid(dtype)
    for w, scale, packed, by_channel in (
        (made.w1, made.w1_scale, WEIGHTS.w1, WEIGHTS.w1_scale),
        (made.w2, made.w2_scale, WEIGHTS.w2, WEIGHTS.w2_scale),
    ):
        k = 2 * packed.shape[-1]
        scales = weight_scales(form, by_channel, k).float()
        if scales.dim() == 3:
            scales = scales.transpose(1, 2).repeat_interleave(k // scales.shape[1], dim=2)
        else:
            scales = scales[..., None]
        assert torch.equal(values(w, scale), unpack_int4(packed).float() * scales)
        shape = dtype.scale_shape(w.shape[1], k)
        assert (None if scale is None else tuple(scale.shape[1:])) == shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_copys_bytes_are_what_memory_is_planned_with(dtype: Dtype) -> None:
    made, _ = laid(dtype)
    tensors = [made.w1, made.w2, *(t for t in (made.w1_scale, made.w2_scale) if t is not None)]
    total = sum(t.numel() * t.element_size() for t in tensors)
    assert dtype.weight_bytes.copy(LAYER) == total


def test_a_copy_is_its_own_and_a_changed_byte_shows() -> None:
    for dtype in DTYPES:
        made, _ = laid(dtype)
        copy = made.clone()
        assert copy.digest() == made.digest()
        copy.w2.view(torch.uint8)[1, 2, 3] ^= 1
        assert copy.digest() != made.digest()


def test_fp8_is_the_cards_own() -> None:
    assert FP8_W8A8.format("gfx942") is Format.FP8
    assert FP8_W8A8.format("gfx950") is FP8_W8A8.format("sm_90") is Format.FP8_OCP


def test_a_layer_that_is_no_whole_number_of_groups_is_refused() -> None:
    layer = Layer("odd", model_dim=128, inter_dim=48, experts=2, top_k=1, tp=1)
    with pytest.raises(UserError, match="another --tp"):
        laid(INT4_W4A16, make_weights(layer, "cpu", seed=1))
