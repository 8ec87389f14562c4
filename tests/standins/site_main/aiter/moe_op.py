"""Composable Kernel's two stages of FP8 x INT4 on the CPU.

What bites there bites here: an unknown kernel name is answered with the kernel of the block size, a kernel
walks over the sorted rows by its own tile, stage 2 adds into its output, another layout gives wrong numbers.
"""

import json
import logging
import os
import re

import torch

from aiter.walk import blocks_of, silu_mul

KNOWN = (
    *(
        f"moe_ck2stages_gemm1_256x{m}x64x128_1x4_MulABScaleWint4_v1_Nswizzle0_Quant2_MulRoutedWeight0_silu"
        "_F8_I4_B16"
        for m in (32, 64, 128, 256)
    ),
    *(
        f"moe_ck2stages_gemm2_256x{m}x128x128_1x4_MulABScaleExpertWeightWin4_v1_Nswizzle0_Quant2"
        "_MulRoutedWeight1_F8_I4_B16"
        for m in (32, 64, 128, 256)
    ),
)


def get_hip_quant(quant_type):
    assert quant_type.name == "per_Token"

    def quantise(x, scale=None, quant_dtype=None):
        peak = x.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-30)
        scale = peak / torch.finfo(quant_dtype).max
        return (x.float() / scale).to(quant_dtype), scale

    return quantise


def _tile_m(name, block_m):
    if name and name not in KNOWN:
        logging.getLogger("aiter").warning("ck kernel not found: %s", name)
        name = ""
    return int(re.search(r"gemm[12]_256x(\d+)x", name)[1]) if name else block_m


def _log(stage, name, block_m, nt):
    log = os.environ.get("STANDIN_LOG")
    if log:
        with open(log, "a") as file:
            file.write(json.dumps({"stage": stage, "kernel": name, "block_m": block_m, "nt": nt}) + "\n")


def _unpacked(w, expert):
    """int8 [N, K] of one expert: a 32-value piece of K of 16 rows lies together."""
    assert w.dtype == torch.uint32
    words = w[expert].view(torch.int32)
    n, k = words.shape[0], 8 * words.shape[1]
    nibbles = torch.stack([(words >> (4 * i)) & 15 for i in range(8)], dim=-1)
    values = nibbles[..., [0, 4, 1, 5, 2, 6, 3, 7]].add(8).remainder(16) - 8
    return values.view(n // 16, k // 32, 16, 32).permute(0, 2, 1, 3).reshape(n, k).float()


def ck_moe_stage1_fwd(
    hidden_states, w1, w2, sorted_token_ids, sorted_expert_ids, num_valid_ids, out, topk, kernelName="",
    w1_scale=None, a1_scale=None, block_m=32, sorted_weights=None, quant_type=None, activation=None, splitk=1,
    use_non_temporal_load=False, dst_type=None,
):  # fmt: skip
    assert hidden_states.dtype == torch.float8_e4m3fnuz
    assert sorted_weights is None
    assert activation.name == "Silu"
    _log(1, kernelName, block_m, use_non_temporal_load)
    tile = _tile_m(kernelName, block_m)
    for block in blocks_of(sorted_token_ids, sorted_expert_ids, num_valid_ids, tile, len(hidden_states)):
        y = hidden_states.float()[block.token] @ _unpacked(w1, block.expert).T
        y = y * a1_scale.view(-1)[block.token][:, None] * w1_scale[block.expert].view(-1)
        out[block.token, block.slot] = silu_mul(y).to(out.dtype)


def ck_moe_stage2_fwd(
    inter_states, w1, w2, sorted_token_ids, sorted_expert_ids, num_valid_ids, out, topk, kernelName="",
    w2_scale=None, a2_scale=None, block_m=32, sorted_weights=None, quant_type=None, activation=None,
    use_non_temporal_load=False,
):  # fmt: skip
    assert inter_states.dtype == torch.float8_e4m3fnuz
    _log(2, kernelName, block_m, use_non_temporal_load)
    tile = _tile_m(kernelName, block_m)
    a, scale = inter_states.float(), a2_scale.view(inter_states.shape[:2])
    for block in blocks_of(sorted_token_ids, sorted_expert_ids, num_valid_ids, tile, len(inter_states)):
        y = a[block.token, block.slot] @ _unpacked(w2, block.expert).T
        y = y * scale[block.token, block.slot][:, None] * w2_scale[block.expert].view(-1)
        y = (y * sorted_weights[block.rows][:, None]).to(out.dtype)
        for token, line in zip(block.token, y, strict=True):
            out[token] = out[token] + line
