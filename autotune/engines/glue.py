"""Small kernels that stand in for an engine's compiled extensions between its two GEMMs."""

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from autotune.kernels.formats import BLOCK, BLOCKED, PEAKS, Format, float8

if TYPE_CHECKING:
    import torch

_COLUMNS = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _silu_mul(gate_up, out, width, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    row, first = tl.program_id(0), tl.program_id(1) * columns
    at = first + tl.arange(0, columns)
    mask = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * width + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (gate * tl.sigmoid(gate) * up).to(tl.bfloat16), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _slot_sum(slots, ids, out, width, top_k: tl.constexpr, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    row, first = tl.program_id(0), tl.program_id(1) * columns
    at = first + tl.arange(0, columns)
    mask = at < width
    total = tl.zeros((columns,), tl.float32)
    for k in range(top_k):
        here = at < tl.where(tl.load(ids + row * top_k + k) >= 0, width, 0)
        total += tl.load(slots + (row * top_k + k) * width + at, mask=here, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, total.to(tl.bfloat16), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _quantise_fp8(x, q, scales, width, peak, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    row, at = tl.program_id(0), tl.arange(0, columns)
    mask = at < width
    values = tl.load(x + row * width + at, mask=mask, other=0.0).to(tl.float32)
    # Correctly rounded, as the gate's reference is: where a quotient lies on a tie, its last bit decides.
    scale = tl.div_rn(tl.maximum(tl.max(tl.abs(values), axis=0), 1e-30), peak)
    tl.store(scales + row, scale)
    tl.store(q + row * width + at, tl.div_rn(values, scale).to(q.dtype.element_ty), mask=mask)


def quantise_fp8(x: "torch.Tensor", form: Format) -> "tuple[torch.Tensor, torch.Tensor]":
    """Rows as an FP8 format has them, for the engines' compiled quantisation by token, or in groups of it.

    Args:
        x: bfloat16 [rows, width].

    Returns:
        float8 [rows, width]; float32 scales [rows, 1], in blocks [rows, width // BLOCK].
    """
    import torch

    if form in BLOCKED and x.shape[1] != BLOCK:
        q, scales = quantise_fp8(x.reshape(-1, BLOCK), form)
        return q.view(x.shape), scales.view(len(x), -1)
    rows, width = x.shape
    q = torch.empty((rows, width), dtype=float8(form), device=x.device)
    scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    _quantise_fp8[(rows,)](x, q, scales, width, PEAKS[form], columns=triton.next_power_of_2(width))
    return q, scales


def silu_mul(gate_up: "torch.Tensor", out: "torch.Tensor") -> None:
    """out = silu(gate) * up; bfloat16 [rows, 2 * width] and [rows, width], gate first."""
    rows, width = out.shape
    _silu_mul[(rows, triton.cdiv(width, _COLUMNS))](gate_up, out, width, columns=_COLUMNS)


def slot_sum(slots: "torch.Tensor", out: "torch.Tensor", ids: "torch.Tensor") -> None:
    """out = the sum over each token's slots whose expert is this GPU's, of no negative id.

    Args:
        slots: bfloat16 [tokens * top_k, width].
        out: bfloat16 [tokens, width].
        ids: int32 [tokens, top_k].
    """
    tokens, width = out.shape
    top_k = slots.numel() // out.numel()
    grid = (tokens, triton.cdiv(width, _COLUMNS))
    _slot_sum[grid](slots, ids, out, width, top_k=top_k, columns=_COLUMNS)
