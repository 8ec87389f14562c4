# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
"""Stage 2: down GEMM over expert-sorted blocks, router-weighted sum over a token's experts. No torch here.

    acc[slot, n]  = sum_k a[slot, k] * w[expert(slot), n, k]                            INT32, exact
    y[slot, n]    = acc * a_scale[slot] * w_scale[expert, n] * topk_weight[slot]        float32
    out[token, n] = sum over the token's TOP_K slots of y                               bfloat16

Two kernels. `stage2_loop_kernel`: a program owns columns of the output and walks over all blocks (or every
SPLIT_BLOCKS-th), so the sum over experts stays in registers; at most `sort.TOKEN_ROWS` tokens.
`stage2_tile_kernel`: a program computes one block's tile, and whoever arrives last at a token's columns sums
up; any number of tokens. Each is one launch.
"""

import triton
import triton.language as tl

from autotune.kernels.tiles import (
    begin_after_previous_kernel,
    let_next_kernel_begin,
    publish_stores,
    tile_of_program,
)


@triton.jit
def stage2_loop_kernel(
    out,  # bf16 [tokens, MODEL_DIM]
    a,  # i8 [slots, K]
    a_scale,  # f32 [slots]
    a_low_sum,  # i32 [slots], sum of a[:, :K // 2]
    topk_weight,  # f32 [slots]
    w,  # i8 [experts, MODEL_DIM, K // 2]
    w_scale,  # f32 [experts, MODEL_DIM]
    block_expert,  # i32 [blocks], -1 where there is no block
    block_slots,  # i32 [blocks, TILE_M]: row r is a slot of token r, or -1
    valid_blocks,  # i32 [1]
    partial,  # f32 [SPLIT_BLOCKS, TILE_M, MODEL_DIM]; not touched when SPLIT_BLOCKS == 1
    arrivals,  # i32 [n_tiles], zero before and after; not touched when SPLIT_BLOCKS == 1
    tokens,  # i32
    MODEL_DIM: tl.constexpr,
    K: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    SPLIT_BLOCKS: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    W_CACHE: tl.constexpr,
    W_EVICT: tl.constexpr,
    PDL: tl.constexpr,
    HIP: tl.constexpr,
):
    begin_after_previous_kernel(PDL)
    BYTES: tl.constexpr = K // 2
    STEP: tl.constexpr = TILE_K // 2
    K_TILES: tl.constexpr = (BYTES + STEP - 1) // STEP
    EVEN_K: tl.constexpr = BYTES % STEP == 0
    EVEN_N: tl.constexpr = MODEL_DIM % TILE_N == 0

    blocks = tl.load(valid_blocks)
    m = tl.arange(0, TILE_M)
    n_tile = tl.program_id(0) // SPLIT_BLOCKS
    part = tl.program_id(0) % SPLIT_BLOCKS
    column = n_tile * TILE_N + tl.arange(0, TILE_N)
    k = tl.arange(0, STEP)
    w_tile = w + (column * BYTES)[None, :] + k[:, None]
    in_n = column < MODEL_DIM
    total = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
    # Every load of the body is pipelined, the ids too.
    for block in tl.range(part, blocks, SPLIT_BLOCKS, num_stages=NUM_STAGES):
        expert = tl.load(block_expert + block).to(tl.int64)
        slot = tl.load(block_slots + block * TILE_M + m)
        real = slot >= 0
        w_expert = w_tile + expert * (MODEL_DIM * BYTES)
        a_tile = a + (slot * K)[:, None] + k[None, :]
        if EVEN_N:
            scale_n = tl.load(w_scale + expert * MODEL_DIM + column)
        else:
            scale_n = tl.load(w_scale + expert * MODEL_DIM + column, mask=in_n, other=0.0)
        acc_low = tl.zeros((TILE_M, TILE_N), dtype=tl.int32)
        acc_high = tl.zeros((TILE_M, TILE_N), dtype=tl.int32)
        for step in tl.static_range(K_TILES):
            if EVEN_K:
                a_mask = real[:, None]
                w_mask = in_n[None, :]
            else:
                in_k = k < BYTES - step * STEP
                a_mask = real[:, None] & in_k[None, :]
                w_mask = in_n[None, :] & in_k[:, None]
            if EVEN_K and EVEN_N:
                packed = tl.load(w_expert + step * STEP, cache_modifier=W_CACHE, eviction_policy=W_EVICT)
            else:
                packed = tl.load(
                    w_expert + step * STEP,
                    mask=w_mask,
                    other=0,
                    cache_modifier=W_CACHE,
                    eviction_policy=W_EVICT,
                )
            a_low = tl.load(a_tile + step * STEP, mask=a_mask, other=0)
            a_high = tl.load(a_tile + step * STEP + BYTES, mask=a_mask, other=0)
            acc_low = tl.dot(a_low, packed & 0x0F, acc_low, out_dtype=tl.int32)
            acc_high = tl.dot(a_high, packed & -16, acc_high, out_dtype=tl.int32)
        # A padding row has scale zero, and integers are finite: it adds nothing.
        low_sum = tl.load(a_low_sum + slot, mask=real, other=0)
        scale_m = tl.load(a_scale + slot, mask=real, other=0.0)
        weight = tl.load(topk_weight + slot, mask=real, other=0.0)
        # Added as floats, exactly (below 2^24): an integer sum would become the first dot's accumulator and
        # chain the two dots one after the other.
        exact = (acc_low - 8 * low_sum[:, None]).to(tl.float32) + (acc_high >> 4).to(tl.float32)
        total += exact * (scale_m * weight)[:, None] * scale_n[None, :]
    let_next_kernel_begin(PDL)
    mine = (m < tokens)[:, None] & in_n[None, :]
    at = (m.to(tl.int64) * MODEL_DIM)[:, None] + column[None, :]
    if SPLIT_BLOCKS > 1:
        tl.store(partial + part * (TILE_M * MODEL_DIM) + at, total, mask=mine)
        # As in stage 1 the last to arrive finishes, and adds in the order of the parts.
        publish_stores(HIP)
        before = tl.atomic_add(arrivals + n_tile, 1, sem="acq_rel", scope="gpu")
        if before == SPLIT_BLOCKS - 1:
            tl.debug_barrier()
            tl.store(arrivals + n_tile, 0)
            total = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
            for other in tl.static_range(SPLIT_BLOCKS):
                other_at = partial + other * (TILE_M * MODEL_DIM) + at
                total += tl.load(other_at, mask=mine, other=0.0, cache_modifier=".cg")
            tl.store(out + at, total.to(tl.bfloat16), mask=mine)
    else:
        tl.store(out + at, total.to(tl.bfloat16), mask=mine)


@triton.jit
def stage2_tile_kernel(
    out,  # bf16 [tokens, MODEL_DIM]
    a,  # i8 [slots, K]
    a_scale,  # f32 [slots]
    a_low_sum,  # i32 [slots], sum of a[:, :K // 2]
    topk_weight,  # f32 [slots]
    w,  # i8 [experts, MODEL_DIM, K // 2]
    w_scale,  # f32 [experts, MODEL_DIM]
    block_expert,  # i32 [blocks], -1 where there is no block
    block_slots,  # i32 [blocks, TILE_M], -1 where the row is padding
    partial,  # f32 (BF16: bf16) [slots, SPLIT_K, MODEL_DIM]; when ATOMIC [tokens, MODEL_DIM], zeros
    arrivals,  # i32 [tokens, n_tiles], zero before and after
    MODEL_DIM: tl.constexpr,
    K: tl.constexpr,
    TOP_K: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    GROUP: tl.constexpr,
    XCDS: tl.constexpr,
    W_CACHE: tl.constexpr,
    W_EVICT: tl.constexpr,
    ATOMIC: tl.constexpr,
    BF16: tl.constexpr,
    PDL: tl.constexpr,
    HIP: tl.constexpr,
):
    let_next_kernel_begin(PDL)
    begin_after_previous_kernel(PDL)
    BYTES: tl.constexpr = K // 2
    STEP: tl.constexpr = TILE_K // 2
    K_TILES: tl.constexpr = (BYTES + STEP - 1) // STEP
    STEPS: tl.constexpr = K_TILES // SPLIT_K
    N_TILES: tl.constexpr = (MODEL_DIM + TILE_N - 1) // TILE_N
    EVEN_K: tl.constexpr = BYTES % STEP == 0
    EVEN_N: tl.constexpr = MODEL_DIM % TILE_N == 0

    block, n_tile, split = tile_of_program(N_TILES, SPLIT_K, GROUP, XCDS)
    expert = tl.load(block_expert + block)
    slot = tl.load(block_slots + block * TILE_M + tl.arange(0, TILE_M))
    if expert < 0:
        return
    expert = expert.to(tl.int64)
    real = slot >= 0
    token = slot // TOP_K
    column = n_tile * TILE_N + tl.arange(0, TILE_N)
    in_n = column < MODEL_DIM
    k = tl.arange(0, STEP)
    first = split * (STEPS * STEP)
    w_tile = w + expert * (MODEL_DIM * BYTES) + first + (column * BYTES)[None, :] + k[:, None]
    a_tile = a + first + (slot * K)[:, None] + k[None, :]
    # Asked for here, used after the loop, so that no program ends with a wait of one full latency.
    scale_n = tl.load(w_scale + expert * MODEL_DIM + column, mask=in_n, other=0.0)
    weight = tl.load(topk_weight + slot, mask=real, other=0.0)
    scale_m = tl.load(a_scale + slot, mask=real, other=0.0)
    # The offset of the low nibbles is taken back once, by the first split.
    low_sum = tl.where(split == 0, tl.load(a_low_sum + slot, mask=real, other=0), 0)

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
                    mask=in_n[None, :],
                    other=0,
                    cache_modifier=W_CACHE,
                    eviction_policy=W_EVICT,
                )
        else:
            in_k = k < BYTES - first - offset
            a_mask = real[:, None] & in_k[None, :]
            packed = tl.load(
                w_tile + offset,
                mask=in_n[None, :] & in_k[:, None],
                other=0,
                cache_modifier=W_CACHE,
                eviction_policy=W_EVICT,
            )
        a_low = tl.load(a_tile + offset, mask=a_mask, other=0)
        a_high = tl.load(a_tile + offset + BYTES, mask=a_mask, other=0)
        acc_low = tl.dot(a_low, packed & 0x0F, acc_low, out_dtype=tl.int32)
        acc_high = tl.dot(a_high, packed & -16, acc_high, out_dtype=tl.int32)
    exact = acc_low + (acc_high >> 4) - 8 * low_sum[:, None]
    y = exact.to(tl.float32) * (scale_m * weight)[:, None] * scale_n[None, :]

    mine = real[:, None] & in_n[None, :]
    token_at = token.to(tl.int64) * MODEL_DIM
    if ATOMIC:
        tl.atomic_add(partial + token_at[:, None] + column[None, :], y, mask=mine, sem="relaxed", scope="gpu")
    else:
        slot_at = (slot.to(tl.int64) * SPLIT_K + split) * MODEL_DIM
        kept = y.to(tl.bfloat16) if BF16 else y
        tl.store(partial + slot_at[:, None] + column[None, :], kept, mask=mine)
    # Nobody waits for anybody: whoever is last at a token's columns finds all sums in memory, and finishes
    # them.
    publish_stores(HIP)
    counter = arrivals + token * N_TILES + n_tile
    before = tl.atomic_add(counter, 1, mask=real, sem="acq_rel", scope="gpu")
    last = real & (before == TOP_K * SPLIT_K - 1)
    if tl.max(last.to(tl.int32), axis=0) > 0:
        tl.debug_barrier()
        tl.store(counter, 0, mask=last)
        done = last[:, None] & in_n[None, :]
        total = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
        if ATOMIC:
            place = partial + token_at[:, None] + column[None, :]
            total = tl.load(place, mask=done, other=0.0, cache_modifier=".cg")
            # The zeros are stored by other threads than those that loaded: no store before every load.
            tl.debug_barrier()
            tl.store(place, tl.zeros((TILE_M, TILE_N), dtype=tl.float32), mask=done)
        else:
            # In the order of the slots, whoever came first: the result is deterministic.
            place = partial + (token_at * (TOP_K * SPLIT_K))[:, None] + column[None, :]
            for part in tl.static_range(TOP_K * SPLIT_K):
                found = tl.load(place + part * MODEL_DIM, mask=done, other=0.0, cache_modifier=".cg")
                total += found.to(tl.float32)
        tl.store(out + token_at[:, None] + column[None, :], total.to(tl.bfloat16), mask=done)
