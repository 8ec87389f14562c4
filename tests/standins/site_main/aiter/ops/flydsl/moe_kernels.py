"""FlyDSL's two stages of bfloat16 x grouped INT4 on the CPU; rows between the stages are sorted positions."""

import json
import os

import torch

from aiter.walk import blocks_of, silu_mul


def get_flydsl_kernel_params(name):
    return None


def _log(stage, **parameters):
    log = os.environ.get("STANDIN_LOG")
    if log:
        with open(log, "a") as file:
            file.write(json.dumps({"stage": stage, **parameters}) + "\n")


def _dequantised(w, scales, expert):
    """float32 [N, K] of one expert, by the address of each weight and scale."""
    experts, n, k = len(w), w.shape[1], 2 * w.shape[2]
    row, column = (expert * n + torch.arange(n))[:, None], torch.arange(k)[None, :]
    at = row // 16 * (k // 64 * 512) + column // 64 * 512 + column % 64 // 16 * 128
    at = at + row % 16 * 8 + column % 16 // 8 * 4 + column % 4
    byte = w.view(torch.int8).view(-1)[at].to(torch.int32)
    values = torch.where(column % 8 < 4, (byte & 15).add(8).remainder(16) - 8, byte >> 4)
    assert scales.dtype == torch.bfloat16
    pairs = scales.view(experts, k // 64, n, 2)[expert]
    return (
        values * pairs.permute(1, 0, 2).reshape(n, k // 32).float().repeat_interleave(32, dim=1)
    ).bfloat16()


def flydsl_moe_stage1(
    a, w1, sorted_token_ids, sorted_expert_ids, num_valid_ids, out=None, topk=1, *, tile_m=32, tile_n=256,
    tile_k=256, a_dtype="fp8", b_dtype="fp4", out_dtype="bf16", act="silu", w1_scale=None, a1_scale=None,
    sorted_weights=None, waves_per_eu=3, b_nt=0, xcd_swizzle=0, k_wave=1,
):  # fmt: skip
    if (a_dtype, b_dtype) != ("bf16", "int4"):
        raise ValueError(f"Unsupported stage1 dtype combination: a_dtype={a_dtype}, b_dtype={b_dtype}")
    if a.shape[1] % tile_k:
        raise NotImplementedError(f"requires D_HIDDEN (K) % {tile_k} == 0")
    _log(1, tile_m=tile_m, tile_n=tile_n, tile_k=tile_k, k_wave=k_wave, b_nt=b_nt)
    inner = w1.shape[1] // 2
    by_position = torch.full((len(sorted_expert_ids) * tile_m, inner), torch.nan, dtype=torch.bfloat16)
    for block in blocks_of(sorted_token_ids, sorted_expert_ids, num_valid_ids, tile_m, len(a)):
        y = a.float()[block.token] @ _dequantised(w1, w1_scale, block.expert).float().T
        by_position[block.rows] = silu_mul(y).bfloat16()
    return by_position  # `out` is not touched


def flydsl_moe_stage2(
    inter_states, w2, sorted_token_ids, sorted_expert_ids, num_valid_ids, out=None, topk=1, *, tile_m=32,
    tile_n=128, tile_k=256, a_dtype="fp8", b_dtype="fp4", out_dtype="bf16", mode="atomic", w2_scale=None,
    a2_scale=None, sorted_weights=None, waves_per_eu=None, b_nt=0,
):  # fmt: skip
    _log(2, tile_m=tile_m, tile_n=tile_n, tile_k=tile_k)
    for block in blocks_of(sorted_token_ids, sorted_expert_ids, num_valid_ids, tile_m, len(out)):
        y = inter_states.float()[block.rows] @ _dequantised(w2, w2_scale, block.expert).float().T
        y = (y * sorted_weights[block.rows][:, None]).bfloat16()
        for token, line in zip(block.token, y, strict=True):
            out[token] = out[token] + line
    return out
