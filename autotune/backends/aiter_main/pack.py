"""Weights and scales as AITER main's INT4 kernels read them.

Grouped weights lie as those of the published generation (`autotune.backends.aiter.pack`).
"""

from typing import TYPE_CHECKING

from autotune.errors import UserError
from autotune.kernels.formats import misfit
from autotune.kernels.layout import unpack_int4

if TYPE_CHECKING:
    import torch


def ck_misfit(n: int, k: int) -> str | None:
    """Why weights of N by K have no place in Composable Kernel's layout; None: they have."""
    if n % 16 or k % 32:
        return f"AITER's layout needs N in 16s and K in 32s, not {n} x {k}"
    return misfit(n, k)


def ck_weights(packed: "torch.Tensor") -> "torch.Tensor":
    """Weights from our own packing (`autotune.kernels.layout`) to Composable Kernel's FP8 x INT4.

    A 32-value piece of K of 16 rows lies together, row after row. Eight values of a row are four bytes, whose
    nibbles are values 0, 2, 4, 6, 1, 3, 5, 7 from the lowest (aiter e4048607a5, aiter/ops/shuffle.py:148-209
    with `use_int4`, then `convert_int8_to_uint32_int4` and `rearrange_4bit_elements` of aiter/int4_utils.py).

    Args:
        packed: int8 [experts, N, K // 2]; N a multiple of 16, K of 32.

    Returns:
        int32 [experts, N, K // 8], to be passed as uint32: that dtype is how AITER tells INT4 weights.

    Raises:
        UserError: N or K does not fit the layout.
    """
    import torch

    experts, n, half = packed.shape
    k = 2 * half
    reason = ck_misfit(n, k)
    if reason is not None:
        raise UserError(f"{reason}: choose another --tp")
    words = torch.empty((experts, n, half), dtype=torch.uint8, device=packed.device)
    for expert in range(experts):  # one at a time: unpacked, a layer takes twice its bytes
        rows = unpack_int4(packed[expert]).view(n // 16, 16, k // 32, 32).permute(0, 2, 1, 3)
        eights = (rows.reshape(-1, 8) & 15).to(torch.uint8)
        low, high = eights[:, [0, 4, 1, 5]], eights[:, [2, 6, 3, 7]]
        words[expert] = (low | high << 4).reshape(n, half)
    return words.view(torch.int32)


def grouped_scales(scales: "torch.Tensor") -> "torch.Tensor":
    """Groups' scales in FlyDSL's order: two neighbouring groups' of one row side by side.

    Args:
        scales: bfloat16 [experts, groups, N], groups even.

    Returns:
        bfloat16, flat (aiter e4048607a5, aiter/ops/shuffle.py:462-483: `shuffle_scale_for_int4`).
    """
    experts, groups, n = scales.shape
    return scales.view(experts, groups // 2, 2, n).permute(0, 1, 3, 2).contiguous().view(-1)
