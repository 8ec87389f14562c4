"""Both packings of INT4 are read as they were written, and products are exact."""

import numpy as np
import pytest

from autotune.backends.flydsl import check as flydsl
from autotune.backends.triton import check as triton
from autotune.check.operands import Operands
from autotune.problem.layer import Layer, Stage, gemm_dims

LAYER = Layer("small", 256, 128, 8, 2, 1)
IDS = np.array([[0, 5], [5, 7], [1, 5]], np.int32)


def pack_ours(w: np.ndarray) -> np.ndarray:
    half = w.shape[1] // 2
    return ((w[:, :half] + 8) | (w[:, half:] & 15) << 4).astype(np.uint8).reshape(-1)


def pack_aiter(w: np.ndarray) -> np.ndarray:
    """shuffle_weight(w, (16, 16)), then byte i of 8 values is v[i + 4] << 4 | v[i] & 15."""
    n, k = w.shape
    shuffled = w.reshape(n // 16, 16, k // 32, 2, 16).transpose(0, 2, 3, 1, 4).reshape(-1, 8)
    return ((shuffled[:, 4:] & 15) << 4 | shuffled[:, :4] & 15).astype(np.uint8).reshape(-1)


@pytest.mark.parametrize(
    ("pack", "unpack"), [(pack_ours, triton.unpack), (pack_aiter, flydsl.unpack)], ids=["ours", "aiter"]
)
def test_unpacking_undoes_packing(pack, unpack) -> None:
    w = np.random.default_rng(0).integers(-8, 8, (64, 256)).astype(np.int8)
    rows = np.array([0, 1, 17, 40, 63])
    np.testing.assert_array_equal(unpack(pack(w), rows, 256), w[rows])


@pytest.mark.parametrize("stage", Stage)
def test_the_reference_is_the_plain_sum(stage: Stage) -> None:
    n, k = gemm_dims(LAYER, stage)
    operands = Operands(
        LAYER, stage, IDS, lambda packed, rows: triton.unpack(packed, rows, k), np.random.default_rng(1)
    )
    slots, columns = np.array([1, 2, 5]), np.array([3, 70])
    w = triton.unpack(operands.packed(5), np.arange(n), k).astype(int)
    for slot, got in zip(slots, operands.gemm(slots, 5, columns), strict=True):
        row = slot // 2 if stage is Stage.STAGE1 else slot
        for column, value in zip(columns, got, strict=True):
            exact = sum(int(a) * int(b) for a, b in zip(operands.a[row], w[column], strict=True))
            scale = float(operands.a_scale[row]) * float(operands.w_scale[5, column])
            assert value == pytest.approx(exact * scale, rel=1e-12)


def test_results_are_of_order_one() -> None:
    k = LAYER.model_dim
    operands = Operands(
        LAYER, Stage.STAGE1, IDS, lambda p, r: triton.unpack(p, r, k), np.random.default_rng(1)
    )
    assert 0.3 < operands.gemm(np.array([1, 2, 5]), 5, np.arange(256)).std() < 3
