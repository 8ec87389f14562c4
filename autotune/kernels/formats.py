"""The numeric formats that MoE kernels of INT4 experts take, each from the same logical INT4 weights.

All start from `LogicalWeights`: INT4 values with a float32 scale an output channel. What differs is how
activations come, and whether the scale is the channel's or a group's.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from autotune.errors import UserError

if TYPE_CHECKING:
    import torch

GROUP = 32
"""Values of K that share a scale in `Format.GROUPED`: the only size that AITER main's kernels have (aiter
e4048607a5, aiter/ops/shuffle.py:462-480)."""
WIDE_GROUP: Final = 128
"""The same of `Format.GROUPED_128`."""
BLOCK: Final = 128
"""Sides of a block of weights with one scale, and values of K in a group of activations with one."""

MAX_K: Final = (1 << 24) // (127 * 8)
"""The longest K whose integer GEMM is exact in float32: 127 * 8 * K stays below 2^24."""

_SCALE_BITS = 5


def misfit(n: int, k: int) -> str | None:
    """Why no kernel here can take, or be judged on, INT4 weights of N by K; None: they can."""
    if k % 2:
        return f"K={k} is odd, and INT4 weights come in pairs"
    if k > MAX_K:
        return f"K={k} is too long for an exact float32 sum of at most {MAX_K}"
    return None


def grouped_misfit(n: int, k: int) -> str | None:
    """The same of `Format.GROUPED`."""
    if k % (2 * GROUP):
        return f"K={k} is not a whole number of pairs of groups of {GROUP}"
    return misfit(n, k)


def wide_grouped_misfit(size: int, n: int, k: int) -> str | None:
    """The same of a format in wider groups, of so many values of K."""
    if k % size:
        return f"K={k} is not a whole number of groups of {size}"
    return misfit(n, k)


def block_misfit(n: int, k: int) -> str | None:
    """The same of the formats in `BLOCKED`, by what SGLang 0.5.23 and vLLM 0.33.0 ask for: whole blocks of a
    half of stage 1's rows, and of stage 2's K."""
    if k % BLOCK:
        return f"K={k} is not a whole number of blocks of {BLOCK}"
    if n % BLOCK:
        return f"N={n} is not a whole number of blocks of {BLOCK}"
    return misfit(n, k)


class Format(StrEnum):
    """What a kernel multiplies; the first is W4A8."""

    INT8 = "int8 x int4"  # INT8 activations by token, a scale per channel
    FP8 = "fp8 x int4"  # float8_e4m3fnuz activations by token, a scale per channel
    GROUPED = "bf16 x grouped int4"  # bfloat16 activations, a bfloat16 scale every 32 values of K
    FP8_OCP = "ocp fp8 x int4"  # float8_e4m3fn activations by token, the FP8 of NVIDIA GPUs and of gfx95
    BF16 = "bf16 x int4"  # bfloat16 activations, a scale per channel
    GROUPED_64 = "bf16 x int4 in groups of 64"  # as GROUPED, a scale every 64 values of K
    GROUPED_128 = "bf16 x int4 in groups of 128"  # as GROUPED, a scale every 128 values of K
    INT8_BF16_SCALES = "int8 x int4, bf16 scales"  # as INT8, the channel's scale in bfloat16
    FP8_BLOCKS = "fp8 x int4 in blocks"  # as FP8, with a scale a block of weights, a group of activations
    FP8_OCP_BLOCKS = "ocp fp8 x int4 in blocks"  # as FP8_OCP, likewise


GROUPS: Final[Mapping[Format, int]] = {
    Format.GROUPED: GROUP,
    Format.GROUPED_64: 64,
    Format.GROUPED_128: WIDE_GROUP,
}
"""Values of K that share a scale; a format that is not here has a scale per channel."""

BLOCKED: Final = frozenset({Format.FP8_BLOCKS, Format.FP8_OCP_BLOCKS})
"""A float32 scale every `BLOCK` by `BLOCK` weights, and every `BLOCK` values of an activation's row."""

_INT8: Final = frozenset({Format.INT8, Format.INT8_BF16_SCALES})
_COARSE: Final = frozenset({Format.BF16, Format.INT8_BF16_SCALES})
"""A scale per channel, which bfloat16 must hold."""

PEAKS: Final[Mapping[Format, float]] = {
    Format.FP8: 240.0,
    Format.FP8_OCP: 448.0,
    Format.FP8_BLOCKS: 240.0,
    Format.FP8_OCP_BLOCKS: 448.0,
}
"""The largest value of each FP8 format's activations."""


def float8(form: Format) -> "torch.dtype":
    """The dtype of an FP8 format's activations: one of `PEAKS`."""
    import torch

    return torch.float8_e4m3fnuz if PEAKS[form] == 240.0 else torch.float8_e4m3fn


def quantise(form: Format, x: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Rows as a format's kernels take them.

    Args:
        x: floating point [rows, K].

    Returns:
        [rows, K], int8 or float8, for bfloat16 formats as it came; float32 scales [rows], there all one; in
        blocks [rows, K // BLOCK].
    """
    import torch

    from autotune.kernels.reference import quantise_reference

    if form in _INT8:
        return quantise_reference(x)[:2]
    if form not in PEAKS:
        return x, torch.ones(len(x), dtype=torch.float32, device=x.device)
    if form in BLOCKED:
        unblocked = next(other for other in PEAKS if other not in BLOCKED and PEAKS[other] == PEAKS[form])
        q, scales = quantise(unblocked, x.reshape(-1, BLOCK))
        return q.view(x.shape), scales.view(len(x), -1)
    peak = x.float().abs().amax(dim=-1).clamp(min=1e-30)
    # By a tensor: on a GPU torch divides by a number by multiplying with its reciprocal, which rounds twice,
    # and where a quotient lies on a tie that bit decides.
    scale = peak / torch.full_like(peak, PEAKS[form])
    return (x.float() / scale[:, None]).to(float8(form)), scale


def weight_scales(form: Format, by_channel: "torch.Tensor", k: int) -> "torch.Tensor":
    """The scales of a format's weights.

    A bfloat16 format's has 5 significant bits, which makes every weight times its scale an exact bfloat16:
    then it is no difference whether a kernel rounds that product, cuts it off or keeps it in float32, or
    whether it holds the product as its weight; and a kernel that holds scales in bfloat16 has the same ones.
    A group's is its channel's, doubled or halved or neither, so that a neighbour's taken in its place shows;
    a block's is that of its first channel, likewise.

    Args:
        by_channel: float32 [experts, N].
        k: values of K that a row has.

    Returns:
        float32 [experts, N], or for a format in groups bfloat16 [experts, K // group, N], in blocks float32
        [experts, K // BLOCK, N].

    Raises:
        UserError: K is no whole number of groups, or of pairs of them.
    """
    import torch

    if form in BLOCKED:
        return _block_scales(by_channel.float(), k)
    group_size = GROUPS.get(form)
    if group_size is None and form not in _COARSE:
        return by_channel
    mantissa, exponent = torch.frexp(by_channel.float())
    coarse = torch.ldexp(torch.round(mantissa * 2**_SCALE_BITS), exponent - _SCALE_BITS)
    if group_size is None:
        return coarse
    reason = grouped_misfit(0, k) if group_size == GROUP else wide_grouped_misfit(group_size, 0, k)
    if reason is not None:
        raise UserError(f"{reason}: choose another --tp")
    experts, n = by_channel.shape
    device = by_channel.device
    groups = k // group_size
    group, row = torch.arange(groups, device=device)[:, None], torch.arange(n, device=device)[None, :]
    factor = torch.exp2(((group + row) % 3 - 1).float())
    scales = torch.empty((experts, groups, n), dtype=torch.bfloat16, device=device)
    for expert in range(experts):  # one at a time: in float32 a layer's would take gigabytes
        scales[expert] = factor * coarse[expert]
    return scales


def _block_scales(by_channel: "torch.Tensor", k: int) -> "torch.Tensor":
    import torch

    rows, n = by_channel.shape[1] // BLOCK, by_channel.shape[1]
    reason = block_misfit(n, k)
    if reason is not None:
        raise UserError(f"{reason}: choose another --tp")
    device = by_channel.device
    along, row = torch.arange(k // BLOCK, device=device)[:, None], torch.arange(rows, device=device)[None, :]
    factor = torch.exp2(((along + row) % 3 - 1).float())
    return (factor * by_channel[:, None, ::BLOCK]).repeat_interleave(BLOCK, dim=2)


def ties(form: Format, x: "torch.Tensor") -> "torch.Tensor":
    """Where the quantisation of `x` is, or nearly is, a matter of the last bit of a division.

    Args:
        x: bfloat16 [rows, width].

    Returns:
        bool [rows, width].
    """
    return flips(form, x, 2.0**-6 if form in _INT8 else 2.0**-10) != 0


def flips(form: Format, x: "torch.Tensor", within: float | None = None) -> "torch.Tensor":
    """What quantising `x` would change if it went the other way at ties.

    Args:
        x: bfloat16 [rows, width].
        within: how near a tie counts: of INT8 in steps, of FP8 relative. None: a few bits of a float32
            division, by which kernels differ.

    Returns:
        float32 [rows, width]: the difference in quantised values, 0 where there is no tie.
    """
    import torch

    if form not in _INT8 and form not in PEAKS:  # nothing is quantised
        return torch.zeros_like(x, dtype=torch.float32)
    if form in BLOCKED and x.shape[1] != BLOCK:
        return flips(form, x.reshape(-1, BLOCK), within).view(x.shape)
    most = PEAKS.get(form, 127.0)
    steps = x.float() * (most / x.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-30))
    if form in _INT8:
        near = 2.0**-12 if within is None else within
        return torch.round(steps + near) - torch.round(steps - near)
    near = 2.0**-20 if within is None else within
    low, high = (
        (steps * factor).clamp(-most, most).to(float8(form)).float() for factor in (1 - near, 1 + near)
    )
    return high - low
