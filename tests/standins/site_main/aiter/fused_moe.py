"""The sort and the rule for cache hints."""

import torch


def moe_sorting(
    topk_ids, topk_weights, num_experts, model_dim, moebuf_dtype, block_size=32, expert_mask=None,
    num_local_tokens=None, dispatch_policy=0,
):  # fmt: skip
    tokens, topk = topk_ids.shape
    length = topk_ids.numel() + num_experts * block_size - topk
    # Beyond the valid rows there is whatever memory held: here rows that look valid.
    ids = torch.zeros(length, dtype=torch.int32)
    weights = torch.ones(length)
    experts = torch.zeros(-(-length // block_size), dtype=torch.int32)
    at = 0
    for expert in range(num_experts):
        token, slot = (topk_ids == expert).nonzero(as_tuple=True)
        if len(token):
            blocks = -(-len(token) // block_size)
            ids[at : at + blocks * block_size] = topk << 24 | tokens
            weights[at : at + blocks * block_size] = 0
            ids[at : at + len(token)] = (slot << 24 | token).int()
            weights[at : at + len(token)] = topk_weights[token, slot]
            experts[at // block_size : at // block_size + blocks] = expert
            at += blocks * block_size
    count = torch.tensor([at, tokens], dtype=torch.int32)
    return ids, weights, experts, count, torch.zeros(tokens, model_dim, dtype=moebuf_dtype)


def use_nt(token, topk, e):
    return (token * topk // e) < 64
