"""The sort, the rule for cache hints, and the lookup of a table's row."""

import csv
import functools
import logging

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


def get_padded_M(tokens):
    return 1 << (tokens - 1).bit_length()


@functools.lru_cache(maxsize=2048)
def get_2stage_cfgs(
    token, model_dim, inter_dim, expert, topk, dtype, q_dtype_a, q_dtype_w, q_type, use_g1u1, activation,
    doweight_stage1, _hidden_pad, _inter_pad,
):  # fmt: skip
    """An empty name stops the real one: it reads tables in which that is no text."""
    from aiter.jit.core import AITER_CONFIGS
    from aiter.jit.utils.chip_info import get_cu_num, get_gfx

    asked = (
        *(get_gfx(), get_cu_num(), token, model_dim, inter_dim, expert, topk, activation, dtype, q_dtype_a),
        *(q_dtype_w, q_type, int(use_g1u1), int(doweight_stage1)),
    )
    with open(AITER_CONFIGS.AITER_CONFIG_FMOE_FILE, newline="") as file:
        rows = {tuple(row.values())[: len(asked)]: row for row in csv.DictReader(file)}
    row = rows.get(tuple(map(str, asked)))
    if row is None:
        chosen = "default"
    else:
        if not (row["kernelName1"] and row["kernelName2"]):
            raise TypeError("argument of type 'float' is not iterable")
        cells = [int(row.get(name) or 0) for name in ("block_m", "ksplit", "run_1stage")]
        block_m, ksplit, run_1stage = cells  # noqa: RUF059  # the lookup reads them by their names
        chosen = f"(kernelName1={row['kernelName1']!r}, kernelName2={row['kernelName2']!r})"
    logging.getLogger("aiter").info("[fused_moe] using 2stage %s for %s", chosen, asked)
