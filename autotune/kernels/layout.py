"""How INT4 weights are packed.

A row of K weights (K even) takes K/2 bytes. Byte j keeps w[j] + 8 in its low nibble (offset binary) and w[j
+ K/2] in its high nibble (two's complement). Two ANDs then take it apart, with no shift and no sign
extension:

    b & 0x0F = w[j] + 8             as int8, in 0..15
    b & 0xF0 = 16 * w[j + K/2]      as int8, in -128..112

and a tile of bytes j..j+t meets the activations j..j+t and K/2+j..K/2+j+t, both in natural order: the
packing does not depend on the tile size. With a in [-127, 127],

    sum_k a[k] w[k] = sum_j a[j] (b & 0x0F) - 8 sum_j a[j]  +  (sum_j a[j + K/2] (b & 0xF0)) >> 4

in INT32, exactly: every term of the last sum is a multiple of 16, and no partial sum exceeds 127 * 128 * K/2,
below 2^31 for K < 264,000.
"""

from typing import TYPE_CHECKING

from autotune.errors import UserError

if TYPE_CHECKING:
    import torch


def pack_int4(weights: "torch.Tensor") -> "torch.Tensor":
    """Pack INT4 weights.

    Args:
        weights: integers in [-8, 7], any integer dtype, [..., K] with K even.

    Returns:
        int8 [..., K // 2].

    Raises:
        UserError: K is odd, or a value is no INT4.
    """
    import torch

    k = weights.shape[-1]
    if k % 2:
        raise UserError(f"a row of {k} weights cannot be packed in pairs: K must be even")
    if weights.numel() and (int(weights.min()) < -8 or int(weights.max()) > 7):
        raise UserError(
            f"weights range from {int(weights.min())} to {int(weights.max())}: INT4 holds -8 to 7"
        )
    wide = weights.to(torch.int16)
    low, high = wide[..., : k // 2] + 8, wide[..., k // 2 :] & 0x0F
    return (low | (high << 4)).to(torch.uint8).view(torch.int8)


def unpack_int4(packed: "torch.Tensor") -> "torch.Tensor":
    """The weights that `pack_int4` packed.

    Args:
        packed: int8 or uint8 [..., K // 2].

    Returns:
        int8 [..., K], in [-8, 7].
    """
    import torch

    byte = packed.view(torch.int8)
    low = (byte & 0x0F) - 8
    high = byte >> 4
    return torch.cat((low, high), dim=-1)
