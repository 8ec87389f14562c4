"""Small layers with random weights, shared by the kernel tests."""

import torch

from autotune.kernels.layout import pack_int4

Layer = dict[str, torch.Tensor]


def routing(tokens: int, experts: int, top_k: int, seed: int = 0, kind: str = "uniform") -> torch.Tensor:
    """int32 [tokens, top_k], distinct in a row. `same`: all tokens on the same experts, the others empty."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(experts, generator=generator)[:top_k] for _ in range(tokens)]
    if kind == "same":
        rows = [rows[0]] * tokens
    return torch.stack(rows).int()


def layer(
    tokens: int,
    model_dim: int,
    inter_dim: int,
    experts: int,
    top_k: int,
    seed: int = 0,
    kind: str = "uniform",
) -> Layer:
    """Arguments of `fused_moe_w4a8`, by name."""
    g = torch.Generator().manual_seed(seed)

    def weights(*shape: int) -> torch.Tensor:
        return pack_int4(torch.randint(-8, 8, shape, generator=g, dtype=torch.int8))

    return {
        "x": torch.randn(tokens, model_dim, generator=g).bfloat16(),
        "w1": weights(experts, 2 * inter_dim, model_dim),
        "w2": weights(experts, model_dim, inter_dim),
        "w1_scale": torch.rand(experts, 2 * inter_dim, generator=g) * 0.01 + 0.002,
        "w2_scale": torch.rand(experts, model_dim, generator=g) * 0.01 + 0.002,
        "topk_weight": torch.softmax(torch.randn(tokens, top_k, generator=g), -1),
        "topk_ids": routing(tokens, experts, top_k, seed, kind),
    }


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """||out - reference|| / ||reference||; NaN (an unwritten element) fails every bound."""
    return float((out.float() - reference.float()).norm() / reference.float().norm())
