"""Triton kernels, cross-compiled for gfx942, that between them use what MoE kernels use."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

TARGET = GPUTarget("hip", "gfx942", 64)


def compile_kernel(function, signature, constants, options=None, divisible=()) -> CompiledKernel:
    """Compiles for gfx942; `divisible` names the arguments that are multiples of 16."""
    names = list(signature)
    full = dict(signature) | dict.fromkeys(constants, "constexpr")
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    source = ASTSource(function, full, constants, attributes)
    return triton.compile(source, target=TARGET, options=options or {})


@triton.jit
def gemm(
    a,
    b,
    c,
    scale_a,
    scale_b,
    M,
    N,
    K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    INTEGER: tl.constexpr,
):
    """c[M, N] = silu(a[M, K] @ b[N, K].T * scale_a * scale_b), bfloat16."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    ks = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), tl.int32 if INTEGER else tl.float32)
    at = a + rows[:, None] * K + ks[None, :]
    bt = b + columns[None, :] * K + ks[:, None]
    for _ in range(0, K, BK):
        x = tl.load(at, mask=rows[:, None] < M, other=0.0)
        y = tl.load(bt, mask=columns[None, :] < N, other=0.0)
        acc = tl.dot(x, y, acc)
        at += BK
        bt += BK
    sa = tl.load(scale_a + rows, mask=rows < M, other=0.0)
    sb = tl.load(scale_b + columns, mask=columns < N, other=0.0)
    out = acc.to(tl.float32) * sa[:, None] * sb[None, :]
    out = out * tl.sigmoid(out)
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(c + rows[:, None] * N + columns[None, :], out.to(tl.bfloat16), mask=inside)


@triton.jit
def int4_rows(at, bt, mask, BN: tl.constexpr, BK: tl.constexpr):
    packed = tl.load(bt, mask=mask, other=0)
    low = (packed << 4).to(tl.int8) >> 4
    high = packed >> 4
    return tl.join(low, high).reshape(BN, BK)


@triton.jit
def moe_stage(
    x,
    w,
    out,
    x_scale,
    w_scale,
    token_of,
    expert_of,
    route_weight,
    tokens,
    N,
    topk,
    K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GATED: tl.constexpr,
    SUM: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """One stage of a W4A8 MoE layer over sorted rows.

    x int8[tokens·topk or tokens, K]; w int8[E, N (or 2N), K / 2], two int4 a byte, low nibble first;
    token_of int32[blocks·BM], ≥ tokens marks padding; expert_of int32[blocks].
    """
    block = tl.program_id(0)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    part = tl.program_id(2)
    expert = tl.load(expert_of + block).to(tl.int64)
    if expert < 0:
        return
    slot = tl.load(token_of + block * BM + tl.arange(0, BM))
    row = slot if SUM else slot // topk
    live = slot < tokens * topk
    ks = tl.arange(0, BK)
    half = tl.arange(0, BK // 2)
    WIDTH: tl.constexpr = 2 if GATED else 1
    k0 = part * (K // SPLIT)
    at = x + row[:, None].to(tl.int64) * K + k0 + ks[None, :]
    bt = w + (expert * N * WIDTH + columns[:, None]) * (K // 2) + k0 // 2 + half[None, :]
    acc = tl.zeros((BM, BN), tl.int32)
    acc2 = tl.zeros((BM, BN), tl.int32)
    for _ in range(0, K // SPLIT, BK):
        a = tl.load(at, mask=live[:, None], other=0)
        b = int4_rows(at, bt, columns[:, None] < N, BN, BK)
        acc = tl.dot(a, b.trans(), acc)
        if GATED:
            b2 = int4_rows(at, bt + N * (K // 2), columns[:, None] < N, BN, BK)
            acc2 = tl.dot(a, b2.trans(), acc2)
        at += BK
        bt += BK // 2
    sx = tl.load(x_scale + row, mask=live, other=0.0)[:, None]
    sw = tl.load(w_scale + expert * N * WIDTH + columns, mask=columns < N, other=0.0)[None, :]
    value = acc.to(tl.float32) * sx * sw
    if GATED:
        sw2 = tl.load(w_scale + expert * N * WIDTH + N + columns, mask=columns < N, other=0.0)[None, :]
        value = value * tl.sigmoid(value) * (acc2.to(tl.float32) * sx * sw2)
    inside = live[:, None] & (columns[None, :] < N)
    if SUM:
        weight = tl.load(route_weight + slot, mask=live, other=0.0)
        target = out + (slot // topk)[:, None] * N + columns[None, :]
        tl.atomic_add(target, value * weight[:, None], mask=inside, sem="relaxed")
    else:
        tl.store(out + slot[:, None].to(tl.int64) * N + columns[None, :], value.to(tl.bfloat16), mask=inside)


@triton.jit
def quantise(x, q, scale, K, BLOCK: tl.constexpr):
    """q[row] = round(x[row] / scale[row]) with scale = max|x| / 127: int8 from bfloat16."""
    row = tl.program_id(0)
    ks = tl.arange(0, BLOCK)
    v = tl.load(x + row * K + ks, mask=ks < K, other=0.0).to(tl.float32)
    top = tl.max(tl.abs(v), 0) / 127.0
    safe = tl.where(top > 0, top, 1.0)
    scaled = v / safe
    rounded = tl.floor(scaled + 0.5)
    tl.store(q + row * K + ks, tl.clamp(rounded, -127.0, 127.0).to(tl.int8), mask=ks < K)
    tl.store(scale + row, top)


@triton.jit
def softmax(x, y, K, BLOCK: tl.constexpr):
    """y[row] = softmax(x[row]), float32."""
    row = tl.program_id(0)
    ks = tl.arange(0, BLOCK)
    v = tl.load(x + row * K + ks, mask=ks < K, other=-float("inf"))
    e = tl.exp(v - tl.max(v, 0))
    tl.store(y + row * K + ks, e / tl.sum(e, 0), mask=ks < K)


@triton.jit
def last_arriver(x, partial, counter, total, N, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """total[i] = sum over parts of x[part, i]; whoever arrives last adds the partial sums up."""
    part = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    tl.store(partial + part * BLOCK + i, tl.load(x + part * N + i, mask=i < N, other=0.0) * 2)
    tl.debug_barrier()
    before = tl.atomic_add(counter, 1, sem="acq_rel")
    if before == PARTS - 1:
        acc = tl.zeros((BLOCK,), tl.float32)
        for p in range(PARTS):
            acc += tl.load(partial + p * BLOCK + i)
        tl.store(total + i, acc, mask=i < N)
        tl.store(counter, 0)


@triton.jit
def scan_and_count(x, prefix, histogram, N, BLOCK: tl.constexpr):
    """Inclusive prefix sum of int32[N] and a histogram of x mod 8 by integer atomics."""
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < N, other=0)
    tl.store(prefix + i, tl.cumsum(v, 0), mask=i < N)
    tl.atomic_add(histogram + v % 8, 1, mask=i < N, sem="relaxed")
