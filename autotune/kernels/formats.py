"""The numeric formats that MoE kernels of INT4 experts take, each from the same logical INT4 weights.

All start from `LogicalWeights`: INT4 values with a float32 scale an output channel. What differs is how
activations come, and whether the scale is the channel's or a group's.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

from autotune.errors import UserError

if TYPE_CHECKING:
    import torch

GROUP = 32
"""Values of K that share a scale in `Format.GROUPED`: the only size that AITER main's kernels have (aiter
e4048607a5, aiter/ops/shuffle.py:462-480)."""

_SCALE_BITS = 5
_PEAK_FP8 = 240.0  # largest float8_e4m3fnuz, the FP8 of gfx942


class Format(StrEnum):
    """What a kernel multiplies; the first is W4A8."""

    INT8 = "int8 x int4"  # INT8 activations by token, a scale a channel
    FP8 = "fp8 x int4"  # float8_e4m3fnuz activations by token, a scale a channel
    GROUPED = "bf16 x grouped int4"  # bfloat16 activations, a bfloat16 scale every 32 values of K


def quantise(form: Format, x: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Rows as a format's kernels take them.

    Args:
        x: floating point [rows, K].

    Returns:
        [rows, K], int8 or float8_e4m3fnuz, for `GROUPED` as it came; float32 scales [rows], there all one.
    """
    import torch

    from autotune.kernels.reference import quantise_reference

    if form is Format.INT8:
        return quantise_reference(x)[:2]
    if form is Format.GROUPED:
        return x, torch.ones(len(x), dtype=torch.float32, device=x.device)
    scale = x.float().abs().amax(dim=-1).clamp(min=1e-30) / _PEAK_FP8
    return (x.float() / scale[:, None]).to(torch.float8_e4m3fnuz), scale


def weight_scales(form: Format, by_channel: "torch.Tensor", k: int) -> "torch.Tensor":
    """The scales of a format's weights.

    A group's is its channel's, doubled or halved or neither, so that a neighbour's taken in its place shows.
    It has 5 significant bits, which makes every weight times its scale an exact bfloat16: then it is
    no difference whether a kernel rounds that product, cuts it off or keeps it in float32.

    Args:
        by_channel: float32 [experts, N].
        k: values of K that a row has.

    Returns:
        float32 [experts, N], or for `GROUPED` bfloat16 [experts, K // 32, N].

    Raises:
        UserError: K is no whole number of groups, or of pairs of them.
    """
    import torch

    if form is not Format.GROUPED:
        return by_channel
    if k % (2 * GROUP):
        raise UserError(f"K={k} is no whole number of pairs of {GROUP}-value groups: choose another --tp")
    mantissa, exponent = torch.frexp(by_channel.float())
    coarse = torch.ldexp(torch.round(mantissa * 2**_SCALE_BITS), exponent - _SCALE_BITS)
    experts, n = by_channel.shape
    device = by_channel.device
    group, row = torch.arange(k // GROUP, device=device)[:, None], torch.arange(n, device=device)[None, :]
    factor = torch.exp2(((group + row) % 3 - 1).float())
    made = torch.empty((experts, k // GROUP, n), dtype=torch.bfloat16, device=device)
    for expert in range(experts):  # one at a time: in float32 a layer's would take gigabytes
        made[expert] = factor * coarse[expert]
    return made


def ties(form: Format, x: "torch.Tensor") -> "torch.Tensor":
    """Where the quantisation of `x` is a matter of the last bit of a division.

    Args:
        x: bfloat16 [rows, width].

    Returns:
        bool [rows, width].
    """
    import torch

    if form is Format.GROUPED:  # nothing is quantised
        return torch.zeros_like(x, dtype=torch.bool)
    peak = x.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    if form is Format.INT8:
        steps = x.float() * (127.0 / peak)
        return (steps - steps.floor() - 0.5).abs() < 1 / 64
    steps = x.float() * (_PEAK_FP8 / peak)
    nearly = ((steps * factor).clamp(-_PEAK_FP8, _PEAK_FP8) for factor in (1 - 2.0**-10, 1 + 2.0**-10))
    low, high = (near.to(torch.float8_e4m3fnuz).float() for near in nearly)
    return low != high
