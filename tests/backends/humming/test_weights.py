"""The experts as humming's checkpoint schema has them: the values, the scales, the order."""

import pytest
import torch

from autotune.backends.humming.rows import ROWS, Row
from autotune.backends.humming.weights import checkpoint_tensors
from autotune.kernels.formats import weight_scales
from autotune.kernels.layout import unpack_int4
from autotune.measure.workload import make_weights
from autotune.problem.layer import Layer

LAYER = Layer("tiny", model_dim=256, inter_dim=128, experts=3, top_k=2, tp=1)
WEIGHTS = make_weights(LAYER, "cpu", seed=1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_checkpoint_s_words_hold_the_same_numbers(row: Row) -> None:
    made = checkpoint_tensors(row, WEIGHTS.w1, WEIGHTS.w1_scale)
    nibbles = torch.stack([(made["weight"] >> (4 * place)) & 15 for place in range(8)], dim=-1)
    assert torch.equal(nibbles.flatten(-2) - 8, unpack_int4(WEIGHTS.w1).int())
    scales = weight_scales(row.format, WEIGHTS.w1_scale, LAYER.model_dim)
    expected = scales.transpose(1, 2) if row.group else scales[..., None]
    assert made["weight_scale"].dtype == torch.bfloat16
    assert torch.equal(made["weight_scale"].float(), expected.float())
    groups = LAYER.model_dim // row.group if row.group else 1
    assert made["weight_scale"].shape == (3, 2 * LAYER.inter_dim, groups)
