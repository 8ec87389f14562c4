"""Sort, both stages and the layer on the CPU, configured by the process environment as the real one is.

What bites there bites here: the config is cached and blind to some variables, bad integers are swallowed and
take others with them, launchers are kept under keys that do not know the gates, atomics add into the output,
and a weight in another layout gives wrong numbers.
"""

import functools
import os
import sys

import torch

from aiter import ActivationType, QuantType

ON = ("1", "true", "True", "YES", "yes")
_STAGE1 = {}
_STAGE2 = {}


def moe_sorting(topk_ids, topk_weights, num_experts, model_dim, moebuf_dtype, block_size=32):
    tokens, topk = topk_ids.shape
    length = topk_ids.numel() + num_experts * block_size - topk
    ids = torch.full((length,), topk << 24 | tokens, dtype=torch.int32)
    weights = torch.zeros(length)
    experts = torch.full((-(-length // block_size),), -1, dtype=torch.int32)
    at = 0
    for expert in range(num_experts):
        token, slot = (topk_ids == expert).nonzero(as_tuple=True)
        if len(token):
            ids[at : at + len(token)] = (slot << 24 | token).int()
            weights[at : at + len(token)] = topk_weights[token, slot]
            blocks = -(-len(token) // block_size)
            experts[at // block_size : at // block_size + blocks] = expert
            at += blocks * block_size
    # The real sort also zeroes the buffer that stage 2 adds into.
    return (
        ids,
        weights,
        experts,
        torch.tensor([at, tokens], dtype=torch.int32),
        torch.zeros(tokens, model_dim, dtype=moebuf_dtype),
    )


def padded(tokens):
    if tokens < 1024:
        return 1 << (tokens - 1).bit_length()
    return 1024 if tokens < 2048 else 2048


@functools.lru_cache(maxsize=2048)
def get_2stage_cfgs(token, tag):
    """The first answer stays, whatever becomes of AITER_ENFORCE_DSL: it is in no key."""
    block = 64 if token > 1024 else 32 if token > 128 else 16
    return block, bool(int(os.environ.get("AITER_ENFORCE_DSL", "1")))


def _tiles(stage, tile_m, tile_n, tile_k, automatic):
    try:
        given = os.environ.get(f"AITER_FLYDSL_STAGE{stage}_TILE_N", "")
        if given:
            tile_n = int(given)
        given = os.environ.get(f"AITER_FLYDSL_STAGE{stage}_TILE_K", "")
        if given:
            tile_k = int(given)
        elif automatic and tile_m <= 16:
            tile_k = 256
        given = os.environ.get(f"AITER_FLYDSL_STAGE{stage}_TILE_M", "")
        if given:
            tile_m = int(given)
    except ValueError:
        pass  # and with it everything after it
    return tile_m, tile_n, tile_k


def _kernels():
    root = os.environ.get("DSL2_ROOT")
    if not root:
        raise RuntimeError("FlyDSL is not found: set DSL2_ROOT")
    if root not in sys.path:
        sys.path.insert(0, root)
    import kernels.moe_gemm_2stage

    return kernels.moe_gemm_2stage


def _blocks(experts, tokens, topk):
    blocks = experts.numel()
    trimmed = os.environ.get("AITER_FLYDSL_MOE_GRID_TRIM", "1") in ON
    return min(blocks, tokens * topk) if trimmed else blocks


def flydsl_moe_stage1(
    hidden_states, w1, w2, sorted_token_ids, sorted_expert_ids, num_valid_ids, out, topk, block_m, a1_scale,
    w1_scale, sorted_weights=None, kernelName="", quant_type=QuantType.No, activation=ActivationType.Silu,
    **_kwargs,
):  # fmt: skip
    tokens, (experts, rows, half) = hidden_states.shape[0], w1.shape
    tile_m, tile_n, tile_k = _tiles(1, block_m, 64, 128, automatic=True)
    key = (experts, rows, half, topk, tile_m, tile_n, tile_k)
    if key not in _STAGE1:
        _STAGE1[key] = _kernels().compile_moe_gemm1(
            model_dim=2 * half, inter_dim=rows // 2, experts=experts, topk=topk, tile_m=tile_m, tile_n=tile_n,
            tile_k=tile_k, doweight_stage1=False, in_dtype="int4", out_dtype="bf16",
            use_cshuffle_epilog=False,
        )  # fmt: skip
    weights = torch.zeros(len(sorted_token_ids))
    _STAGE1[key](
        out, hidden_states, w1.view(-1), a1_scale.view(-1).float(), w1_scale.view(-1).float(),
        sorted_token_ids, sorted_expert_ids, weights, num_valid_ids[:1], tokens, rows // 2, 2 * half,
        _blocks(sorted_expert_ids, tokens, topk), 0,
    )  # fmt: skip
    return out


def flydsl_moe_stage2(
    a2, w1, w2, sorted_token_ids, sorted_expert_ids, num_valid_ids, out, topk, w2_scale, a2_scale, block_m,
    sorted_weights=None, kernelName="", quant_type=QuantType.No, activation=ActivationType.Silu, **_kwargs,
):  # fmt: skip
    tokens, (experts, model_dim, half) = a2.shape[0], w2.shape
    tile_m, tile_n, tile_k = _tiles(2, block_m, 256, 64, automatic=False)
    kernels = _kernels()
    reduces = os.environ.get("AITER_FLYDSL_MOE_GEMM2_MODE", "atomic").lower() == "reduce"
    mode = kernels.MoeGemm2Mode.REDUCE if reduces else kernels.MoeGemm2Mode.ATOMIC
    key = (experts, model_dim, half, topk, tile_m, tile_n, tile_k, mode)
    if key not in _STAGE2:
        _STAGE2[key] = kernels.compile_moe_gemm2_ex(
            model_dim=model_dim, inter_dim=2 * half, experts=experts, topk=topk, tile_m=tile_m, tile_n=tile_n,
            tile_k=tile_k, doweight_stage2=sorted_weights is not None, in_dtype="int4", out_dtype="bf16",
            mode=mode,
        )  # fmt: skip
    masked = (None,) if reduces else ()
    _STAGE2[key](
        out, a2.reshape(-1), w2.view(-1), a2_scale.view(-1).float(), w2_scale.view(-1).float(),
        sorted_token_ids, sorted_expert_ids, sorted_weights, num_valid_ids[:1], tokens, model_dim, 2 * half,
        _blocks(sorted_expert_ids, tokens, topk), *masked, 0,
    )  # fmt: skip
    return out


def _quantise(x):
    peak = x.float().abs().amax(dim=-1, keepdim=True)
    return torch.round(x.float() * (127 / peak.clamp(min=1e-30))).to(torch.int8), peak / 127


def fused_moe(
    hidden_states, w1, w2, topk_weight, topk_ids, expert_mask=None, activation=ActivationType.Silu,
    quant_type=QuantType.No, doweight_stage1=False, w1_scale=None, w2_scale=None, block_size_M=None,
):  # fmt: skip
    if os.environ.get("AITER_W4A8_USE_INT8", "0") not in ("1", "true", "True"):
        raise RuntimeError("INT4 weights get FP8 activations: there is no FlyDSL kernel for that here")
    (tokens, _), (experts, _, _) = hidden_states.shape, w1.shape
    block, _ = get_2stage_cfgs(padded(tokens), os.environ.get("AITER_USE_FLYDSL_MOE", ""))
    block = block_size_M or block
    model_dim, topk, inter_dim = w2.shape[1], topk_ids.shape[1], 2 * w2.shape[2]
    ids, weights, eids, valid, out = moe_sorting(
        topk_ids, topk_weight, experts, model_dim, hidden_states.dtype, block
    )
    a1, a1_scale = _quantise(hidden_states)
    middle = torch.empty(tokens, topk, inter_dim, dtype=hidden_states.dtype)
    flydsl_moe_stage1(a1, w1, w2, ids, eids, valid, middle, topk, block, a1_scale, w1_scale)
    a2, a2_scale = _quantise(middle)
    return flydsl_moe_stage2(
        a2, w1, w2, ids, eids, valid, out, topk, w2_scale, a2_scale, block, sorted_weights=weights
    )
