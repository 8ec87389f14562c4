# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
"""Symmetric INT8 quantisation of rows, with the row sum that the GEMMs take the nibbles' offset back with.

    scale[r] = max_k |x[r, k]| / 127
    q[r, k]  = round_half_even(x[r, k] * (127 / max_k |x[r, k]|)); an all-zero row gives zeros
    low_sum[r] = sum of q[r, :K // 2]

Used twice a layer: on the tokens [tokens, model_dim], and between the stages on the slots [tokens * top_k,
inter_dim]. No torch here.
"""

import triton
import triton.language as tl

from autotune.kernels.tiles import begin_after_previous_kernel, let_next_kernel_begin


@triton.jit
def quantise_kernel(
    q,  # i8 [rows, K]
    scale,  # f32 [rows]
    low_sum,  # i32 [rows]
    x,  # bf16 [rows, K]
    K: tl.constexpr,
    HALF: tl.constexpr,  # power of two >= K // 2
    PDL: tl.constexpr,
):
    """One program a row. Grid: rows."""
    begin_after_previous_kernel(PDL)
    let_next_kernel_begin(PDL)
    quantise_row(q, scale, low_sum, x, tl.program_id(0), K, HALF)


@triton.jit
def quantise_row(q, scale, low_sum, x, row, K: tl.constexpr, HALF: tl.constexpr):
    """Quantise row `row`. The halves are kept apart: the first is what meets the low nibbles."""
    k = tl.arange(0, HALF)
    inside = k < K // 2
    start = row.to(tl.int64) * K
    low = tl.load(x + start + k, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x + start + K // 2 + k, mask=inside, other=0.0).to(tl.float32)
    peak = tl.max(tl.maximum(tl.abs(low), tl.abs(high)), axis=0)
    # Correctly rounded, and compiled without fused multiply-add (spec.py): bfloat16 ratios often lie on a
    # tie or next to it, where one unit in the last place moves a thousand values of a row by one.
    inverse = tl.where(peak > 0.0, tl.div_rn(tl.full((), 127.0, tl.float32), tl.maximum(peak, 1e-30)), 0.0)
    q_low = _round(low * inverse)
    q_high = _round(high * inverse)
    tl.store(q + start + k, q_low.to(tl.int8), mask=inside)
    tl.store(q + start + K // 2 + k, q_high.to(tl.int8), mask=inside)
    tl.store(scale + row, tl.div_rn(peak, tl.full((), 127.0, tl.float32)))
    tl.store(low_sum + row, tl.sum(q_low.to(tl.int32), axis=0))


@triton.jit
def quantise_rows(q, scale, low_sum, x, row, K: tl.constexpr, HALF: tl.constexpr):
    """The same of several rows, [R]; -1: none. Reads past L1, what other programs wrote."""
    k = tl.arange(0, HALF)
    inside = (row >= 0)[:, None] & (k < K // 2)[None, :]
    place = (row.to(tl.int64) * K)[:, None] + k[None, :]
    low = tl.load(x + place, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)
    high = tl.load(x + place + K // 2, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)
    peak = tl.max(tl.maximum(tl.abs(low), tl.abs(high)), axis=1)
    inverse = tl.where(
        peak > 0.0, tl.div_rn(tl.full(peak.shape, 127.0, tl.float32), tl.maximum(peak, 1e-30)), 0.0
    )
    q_low = _round(low * inverse[:, None])
    q_high = _round(high * inverse[:, None])
    tl.store(q + place, q_low.to(tl.int8), mask=inside)
    tl.store(q + place + K // 2, q_high.to(tl.int8), mask=inside)
    tl.store(scale + row, tl.div_rn(peak, tl.full(peak.shape, 127.0, tl.float32)), mask=row >= 0)
    tl.store(low_sum + row, tl.sum(q_low.to(tl.int32), axis=1), mask=row >= 0)


@triton.jit
def _round(x):
    # 1.5 * 2^23: adding it leaves no bits below one, so the addition itself rounds half to even. Works alike
    # on every target and in the interpreter, unlike the math libraries' rint. |x| <= 127.
    return (x + 12582912.0) - 12582912.0
