# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
"""Stage 1: gate_up GEMM over expert-sorted blocks, SiLU(gate) * up; INT8 x INT4. No torch here.

    acc[slot, n] = sum_k a[token(slot), k] * w[expert(slot), n, k]                      INT32, exact
    y[slot, n]   = acc * a_scale[token] * w_scale[expert, n]                            float32
    out[slot, j] = silu(y[slot, j]) * y[slot, inter + j]                                bfloat16

The nibbles of a weight byte are taken apart by two ANDs (`layout.py` says how they are stored and why that is
exact). Both are INT8 dots of their own; the offset of the low nibbles is taken back with the row sums that
the quantiser made.
"""

import triton
import triton.language as tl

from autotune.kernels.quantise import quantise_rows
from autotune.kernels.tiles import (
    begin_after_previous_kernel,
    let_next_kernel_begin,
    prefetch_l2,
    publish_stores,
    tile_of_program,
)


@triton.jit
def stage1_kernel(
    out,  # bf16 [slots, INTER]
    a,  # i8 [tokens, K]
    a_scale,  # f32 [tokens]
    a_low_sum,  # i32 [tokens], sum of a[:, :K // 2]
    w,  # i8 [experts, 2 * INTER, K // 2]; rows: gate, then up
    w_scale,  # f32 [experts, 2 * INTER]
    block_expert,  # i32 [blocks], -1 where there is no block
    block_slots,  # i32 [blocks, TILE_M], -1 where the row is padding
    partial,  # i32 [slots, SPLIT_K, n_tiles * TILE_N]; not touched when SPLIT_K == 1
    arrivals,  # i32 [blocks, n_tiles], zero before and after; not touched when SPLIT_K == 1
    q,  # i8 [slots, INTER]; this and the rest: not touched unless REQUANTISE
    scale,  # f32 [slots]
    low_sum,  # i32 [slots]
    finished,  # i32 [blocks], zero before and after
    topk_ids,  # i32 [tokens, TOP_K]; not touched unless PREFETCH
    K: tl.constexpr,
    INTER: tl.constexpr,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    GROUP: tl.constexpr,
    XCDS: tl.constexpr,
    W_CACHE: tl.constexpr,
    W_EVICT: tl.constexpr,
    REQUANTISE: tl.constexpr,
    PREFETCH: tl.constexpr,  # bytes of each weight row
    PDL: tl.constexpr,
    HIP: tl.constexpr,
):
    if not REQUANTISE:
        let_next_kernel_begin(PDL)
    BYTES: tl.constexpr = K // 2
    STEP: tl.constexpr = TILE_K // 2
    K_TILES: tl.constexpr = (BYTES + STEP - 1) // STEP
    STEPS: tl.constexpr = K_TILES // SPLIT_K
    HALF_N: tl.constexpr = TILE_N // 2
    N_TILES: tl.constexpr = (INTER + HALF_N - 1) // HALF_N
    EVEN_K: tl.constexpr = BYTES % STEP == 0
    EVEN_N: tl.constexpr = INTER % HALF_N == 0

    if PREFETCH > 0:
        # Of one slot's expert each: together these are the blocks' experts, whatever their order.
        pid = tl.program_id(0)
        chosen = tl.load(topk_ids + pid // (N_TILES * SPLIT_K), cache_modifier=".cg")
        chosen = tl.where((chosen >= 0) & (chosen < EXPERTS), chosen, 0).to(tl.int64)
        asked = tl.minimum(pid // SPLIT_K % N_TILES * HALF_N + tl.arange(0, TILE_N) // 2, INTER - 1)
        asked += tl.arange(0, TILE_N) % 2 * INTER
        start = w + chosen * (2 * INTER * BYTES) + pid % SPLIT_K * (STEPS * STEP)
        lines = tl.minimum(tl.arange(0, PREFETCH // 128) * 128, STEPS * STEP - 1)
        prefetch_l2(start + (asked * BYTES)[:, None] + lines[None, :])
    begin_after_previous_kernel(PDL)
    block, n_tile, split = tile_of_program(N_TILES, SPLIT_K, GROUP, XCDS)
    expert = tl.load(block_expert + block)
    slot = tl.load(block_slots + block * TILE_M + tl.arange(0, TILE_M))
    if expert < 0:
        return
    real = slot >= 0
    token = slot // TOP_K

    # Gate and up rows alternate inside the tile: a column pair of the accumulator then lies in one thread,
    # and SiLU(gate) * up needs no exchange.
    n = tl.arange(0, TILE_N)
    column = n_tile * HALF_N + n // 2
    row = (n % 2) * INTER + column
    k = tl.arange(0, STEP)
    first = split * (STEPS * STEP)
    w_tile = w + expert.to(tl.int64) * (2 * INTER * BYTES) + first + (row * BYTES)[None, :] + k[:, None]
    a_tile = a + first + (token * K)[:, None] + k[None, :]
    # Asked for here, used after the loop: these are cold in memory, and would otherwise end every program
    # with a wait of one full latency.
    scale_n = tl.load(w_scale + expert.to(tl.int64) * (2 * INTER) + row, mask=column < INTER, other=0.0)
    scale_m = tl.load(a_scale + token, mask=real, other=0.0)
    sum_m = tl.load(a_low_sum + token, mask=real, other=0)

    acc_low = tl.zeros((TILE_M, TILE_N), dtype=tl.int32)
    acc_high = tl.zeros((TILE_M, TILE_N), dtype=tl.int32)
    for step in tl.range(0, STEPS):
        offset = step * STEP
        if EVEN_K:
            a_mask = real[:, None]
            if EVEN_N:
                packed = tl.load(w_tile + offset, cache_modifier=W_CACHE, eviction_policy=W_EVICT)
            else:
                packed = tl.load(
                    w_tile + offset,
                    mask=(column < INTER)[None, :],
                    other=0,
                    cache_modifier=W_CACHE,
                    eviction_policy=W_EVICT,
                )
        else:
            in_k = k < BYTES - first - offset
            a_mask = real[:, None] & in_k[None, :]
            packed = tl.load(
                w_tile + offset,
                mask=(column < INTER)[None, :] & in_k[:, None],
                other=0,
                cache_modifier=W_CACHE,
                eviction_policy=W_EVICT,
            )
        a_low = tl.load(a_tile + offset, mask=a_mask, other=0)
        a_high = tl.load(a_tile + offset + BYTES, mask=a_mask, other=0)
        acc_low = tl.dot(a_low, packed & 0x0F, acc_low, out_dtype=tl.int32)
        acc_high = tl.dot(a_high, packed & -16, acc_high, out_dtype=tl.int32)
    acc = acc_low + (acc_high >> 4)
    if REQUANTISE:  # what comes next is stage 2: see `let_next_kernel_begin`
        let_next_kernel_begin(PDL)

    if SPLIT_K > 1:
        WIDTH: tl.constexpr = N_TILES * TILE_N
        part = partial + (slot.to(tl.int64) * (SPLIT_K * WIDTH))[:, None] + (n_tile * TILE_N + n)[None, :]
        tl.store(part + split * WIDTH, acc, mask=real[:, None])
        # Nobody waits for anybody: whoever arrives last finds all the others' sums in memory, and finishes.
        publish_stores(HIP)
        before = tl.atomic_add(arrivals + block * N_TILES + n_tile, 1, sem="acq_rel", scope="gpu")
        if before == SPLIT_K - 1:
            tl.debug_barrier()
            tl.store(arrivals + block * N_TILES + n_tile, 0)
            acc = tl.zeros((TILE_M, TILE_N), dtype=tl.int32)
            for other in tl.static_range(SPLIT_K):
                acc += tl.load(part + other * WIDTH, mask=real[:, None], other=0, cache_modifier=".cg")
            _finish(out, acc, sum_m, scale_m, scale_n, slot, real, n_tile, INTER, TILE_M, HALF_N)
            if REQUANTISE:
                _requantise(out, q, scale, low_sum, finished, block_slots, block, INTER, TILE_M, N_TILES, HIP)
    else:
        _finish(out, acc, sum_m, scale_m, scale_n, slot, real, n_tile, INTER, TILE_M, HALF_N)
        if REQUANTISE:
            _requantise(out, q, scale, low_sum, finished, block_slots, block, INTER, TILE_M, N_TILES, HIP)


@triton.jit
def _finish(
    out,
    acc,
    sum_m,
    scale_m,
    scale_n,
    slot,
    real,
    n_tile,
    INTER: tl.constexpr,
    TILE_M: tl.constexpr,
    HALF_N: tl.constexpr,
):
    exact = acc - 8 * sum_m[:, None]
    y = exact.to(tl.float32) * scale_m[:, None] * scale_n[None, :]
    gate, up = tl.split(tl.reshape(y, (TILE_M, HALF_N, 2)))
    act = gate / (1.0 + tl.exp(-gate)) * up
    column = n_tile * HALF_N + tl.arange(0, HALF_N)
    place = out + (slot.to(tl.int64) * INTER)[:, None] + column[None, :]
    tl.store(place, act.to(tl.bfloat16), mask=real[:, None] & (column < INTER)[None, :])


@triton.jit
def _requantise(
    out,
    q,
    scale,
    low_sum,
    finished,
    block_slots,
    block,
    INTER: tl.constexpr,
    TILE_M: tl.constexpr,
    N_TILES: tl.constexpr,
    HIP: tl.constexpr,
):
    """Who is last at a block's rows quantises them for stage 2."""
    publish_stores(HIP)
    before = tl.atomic_add(finished + block, 1, sem="acq_rel", scope="gpu")
    if before == N_TILES - 1:
        tl.debug_barrier()
        tl.store(finished + block, 0)
        ROWS: tl.constexpr = 8
        for first in tl.static_range(0, TILE_M, ROWS):
            slot = tl.load(block_slots + block * TILE_M + first + tl.arange(0, ROWS))
            # Few tokens leave most rows empty.
            if tl.max(slot, axis=0) >= 0:
                quantise_rows(q, scale, low_sum, out, slot, INTER, triton.next_power_of_2(INTER // 2))
