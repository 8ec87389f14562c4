"""The layer in float32, from the same quantised operands that the kernels get; on any torch device.

The integer GEMMs are done in float32 and are exact there: products are integers, and no partial sum passes
2^24 as long as 127 * 8 * K < 2^24 (K <= 16,512), provided that float32 products really are float32. On
NVIDIA that needs TF32 off, which these functions see to. Nothing is rounded to bfloat16 on the way.

The GEMMs take the other formats' operands as well (`autotune.kernels.formats`): float8 or floating-point
activations, and bfloat16 scales of groups along K. Their float32 sums are rounded, by some 1e-6.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from autotune.errors import UserError
from autotune.kernels.formats import misfit
from autotune.kernels.layout import unpack_int4

_UNPACKED_BYTES = 1 << 28  # of experts' weights and rows in float32 at a time


def quantise_reference(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Symmetric INT8 quantisation of rows, as `quantise.py` defines it.

    Args:
        x: floating point [rows, K].

    Returns:
        int8 [rows, K]; float32 scales [rows]; int32 sums of the rows' first halves [rows].
    """
    x = x.float()
    peak = x.abs().amax(dim=-1)
    # Tensors above and below the line: with a number in either place torch multiplies by a reciprocal on a
    # GPU, which rounds twice.
    most = torch.full_like(peak, 127.0)
    inverse = torch.where(peak > 0, most / peak.clamp(min=1e-30), 0.0)
    q = torch.round(x * inverse[:, None]).to(torch.int8)
    low_sum = q[:, : x.shape[-1] // 2].sum(dim=-1, dtype=torch.int32)
    return q, peak / most, low_sum


def stage1_reference(
    a: torch.Tensor, a_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, topk_ids: torch.Tensor
) -> torch.Tensor:
    """SiLU(gate) * up of every slot.

    Args:
        a: int8 [tokens, model_dim], or floating point.
        a_scale: float32 [tokens].
        w: packed int8 [experts, 2 * inter_dim, model_dim // 2].
        w_scale: float32 [experts, 2 * inter_dim], or of groups [experts, model_dim // 32, 2 * inter_dim].
        topk_ids: integers [tokens, top_k].

    Returns:
        float32 [tokens * top_k, inter_dim].
    """
    gate, up = gate_up_reference(a, a_scale, w, w_scale, topk_ids).chunk(2, dim=-1)
    return silu(gate) * up


def silu(gate: torch.Tensor) -> torch.Tensor:
    """gate * sigmoid(gate), element by element; of gate's shape and dtype."""
    return gate / (1.0 + torch.exp(-gate))


def gate_up_reference(
    a: torch.Tensor, a_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, topk_ids: torch.Tensor
) -> torch.Tensor:
    """Stage 1's GEMM alone. Args: as `stage1_reference`. Returns: float32 [tokens * top_k, 2 * inter_dim]."""
    top_k = topk_ids.shape[1]
    rows = _indexable(a).repeat_interleave(top_k, dim=0)
    scale = a_scale.repeat_interleave(top_k, dim=0)
    return _expert_gemm(rows, scale, w, w_scale, topk_ids.reshape(-1))


def stage2_reference(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weight: torch.Tensor,
) -> torch.Tensor:
    """The router-weighted sum of the down projections.

    Args:
        a: int8 [tokens * top_k, inter_dim], or floating point.
        a_scale: float32 [tokens * top_k].
        w: packed int8 [experts, model_dim, inter_dim // 2].
        w_scale: float32 [experts, model_dim], or of groups [experts, inter_dim // 32, model_dim].
        topk_ids: integers [tokens, top_k].
        topk_weight: float32 [tokens, top_k].

    Returns:
        float32 [tokens, model_dim].
    """
    tokens, top_k = topk_ids.shape
    y = _expert_gemm(_indexable(a), a_scale, w, w_scale, topk_ids.reshape(-1))
    return (y * topk_weight.reshape(-1, 1).float()).reshape(tokens, top_k, -1).sum(dim=1)


def layer_reference(
    x: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    w1_scale: torch.Tensor,
    w2_scale: torch.Tensor,
    topk_weight: torch.Tensor,
    topk_ids: torch.Tensor,
) -> torch.Tensor:
    """The whole layer, activations quantised before each stage; the intermediate stays float32.

    Args: as `operator.fused_moe_w4a8`. Returns: float32 [tokens, model_dim].
    """
    q, scale, _ = quantise_reference(x)
    middle = stage1_reference(q, scale, w1, w1_scale, topk_ids)
    q, scale, _ = quantise_reference(middle)
    return stage2_reference(q, scale, w2, w2_scale, topk_ids, topk_weight)


def _expert_gemm(
    a: torch.Tensor, a_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, expert: torch.Tensor
) -> torch.Tensor:
    """float32 [slots, N]: each slot's row times its own expert's weights, scaled; zeros of a negative one."""
    k = a.shape[-1]
    reason = misfit(w.shape[1], k)
    if reason is not None:
        raise UserError(reason)
    out = torch.zeros((a.shape[0], w.shape[1]), dtype=torch.float32, device=a.device)
    if bool((expert < 0).any()):  # of another GPU
        here = expert >= 0
        if bool(here.any()):
            out[here] = _expert_gemm(a[here], a_scale[here], w, w_scale, expert[here])
        return out
    # In groups along K scales cannot wait until the sum is there, as a row's can.
    by_row = a_scale
    if a_scale.dim() == 2:
        a = a.float() * a_scale.repeat_interleave(k // a_scale.shape[1], dim=1)
        by_row = torch.ones_like(a_scale[:, 0])
    # Only the experts that are there, and not all at once: a real layer's weights would not fit unpacked.
    # Those with the most rows first, so that experts of about as many are padded to equal counts together.
    experts, group, counts = torch.unique(expert, return_inverse=True, return_counts=True)
    counts, ranked = counts.sort(descending=True, stable=True)
    experts, group = experts[ranked], ranked.argsort()[group]
    order = torch.argsort(group, stable=True)
    place = torch.empty_like(group)
    place[order] = torch.arange(len(group), device=a.device) - (counts.cumsum(0) - counts)[group[order]]
    ends, most = [0, *counts.cumsum(0).tolist()], counts.tolist()
    start = 0
    with _exact_float32():
        while start < len(experts):
            size = max(1, _UNPACKED_BYTES // (4 * k * (w.shape[1] + most[start])))
            stop = min(start + size, len(experts))
            some, mine = experts[start:stop], order[ends[start] : ends[stop]]
            own = group[mine] - start
            rows = torch.zeros((stop - start, most[start], k), dtype=torch.float32, device=a.device)
            rows[own, place[mine]] = a[mine].float()
            weights, scale = unpack_int4(w[some]).float(), w_scale[some]
            if scale.dim() == 3:  # of groups: they cannot wait until the sum is there
                groups = scale.float().transpose(1, 2)
                weights *= groups.repeat_interleave(k // groups.shape[2], dim=2)
                scale = torch.ones((stop - start, 1), device=a.device)
            product = rows @ weights.transpose(1, 2)
            out[mine] = product[own, place[mine]] * by_row[mine][:, None] * scale[own]
            start = stop
    return out


def _indexable(a: torch.Tensor) -> torch.Tensor:
    """Float8 as float32: torch neither gathers nor repeats its rows."""
    return a.float() if a.is_floating_point() else a


@contextmanager
def _exact_float32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
