"""Weights as FlyDSL's W4A8 kernels read them, of both generations.

A 64-value piece of K of 16 rows lies together. Within it a lane reads 16 consecutive values of one row: 8
bytes, whose low nibbles are values 0..3 and 8..11 of the sixteen, and high nibbles 4..7 and 12..15. The byte
of weight k of row n (counted over all experts) is

    n//16 * (K/64 * 512) + k//64 * 512 + k%64//16 * 128 + n%16 * 8 + k%16//8 * 4 + k%4

Layout of FlyDSL a1d8312, tests/kernels/test_moe_gemm.py:52-155, and aiter 511df6a, aiter/ops/shuffle.py.
"""

from typing import TYPE_CHECKING

from autotune.errors import UserError
from autotune.kernels.formats import misfit
from autotune.kernels.layout import unpack_int4

if TYPE_CHECKING:
    import torch


def flydsl_misfit(n: int, k: int) -> str | None:
    """Why weights of N by K have no place in the layout; None: they have."""
    if n % 16 or k % 64:
        return f"FlyDSL's layout needs N in 16s and K in 64s, not {n} x {k}"
    return misfit(n, k)


def flydsl_weights(packed: "torch.Tensor") -> "torch.Tensor":
    """Weights from our own packing (`autotune.kernels.layout`) to FlyDSL's.

    Args:
        packed: int8 [experts, N, K // 2]; N a multiple of 16, K of 64.

    Returns:
        int8 [experts, N, K // 2] on the same device.

    Raises:
        UserError: N or K does not fit the layout.
    """
    import torch

    experts, n, half = packed.shape
    reason = flydsl_misfit(n, 2 * half)
    if reason is not None:
        raise UserError(f"{reason}: choose another --tp")
    shuffled = torch.empty_like(packed)
    for expert in range(experts):  # one at a time: unpacked, a layer takes twice its bytes
        shuffled[expert] = shuffled_and_packed(unpack_int4(packed[expert]))
    return shuffled


def shuffled_and_packed(weights: "torch.Tensor") -> "torch.Tensor":
    """One expert's weights.

    Args:
        weights: int8 [N, K], -8..7.

    Returns:
        int8 [N, K // 2].
    """
    n, k = weights.shape
    # 16 rows, 32 values of K, as 2 x 16: all rows' first halves come before their second ones.
    pieces = weights.view(n // 16, 16, k // 32, 2, 16).permute(0, 2, 3, 1, 4)
    eights = pieces.reshape(-1, 2, 4)
    return (eights[:, 1] << 4 | eights[:, 0] & 15).reshape(n, k // 2)
