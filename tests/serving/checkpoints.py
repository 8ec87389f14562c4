"""Small checkpoints in every layout, packed here from their values by the definition of each layout."""

from dataclasses import dataclass

import torch

from autotune.kernels.layout import pack_int4
from autotune.serving.checkpoint import Layout, compressed, quark

LAYOUTS = {
    "quark order": quark("order"),
    "quark reorder": quark("reorder"),
    "pack-quantized": compressed("pack-quantized"),
    "int-quantized": compressed("int-quantized"),
}
_NIBBLES = {"quark reorder": [0, 2, 4, 6, 1, 3, 5, 7]}  # the value that each nibble of a word holds
SHARDS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


@dataclass(frozen=True)
class Small:
    """Experts as they were before they were stored.

    Attributes:
        values: INT4 by (expert, shard), int8 [N, K].
        scales: float32 by the same, [N].
    """

    values: dict[tuple[int, str], torch.Tensor]
    scales: dict[tuple[int, str], torch.Tensor]
    experts: int
    model_dim: int
    inter_dim: int

    def operator(self, tp: int = 1, rank: int = 0, of: slice = slice(None)) -> tuple[torch.Tensor, ...]:
        """w1, w2, w1_scale and w2_scale of a rank, for the operator and its reference."""
        local = self.inter_dim // tp
        part = slice(rank * local, (rank + 1) * local)
        experts = range(self.experts)[of]

        def both(source: dict[tuple[int, str], torch.Tensor]) -> torch.Tensor:
            return torch.stack([torch.cat((source[e, "w1"][part], source[e, "w3"][part])) for e in experts])

        down = torch.stack([self.values[e, "w2"][:, part] for e in experts])
        scales = torch.stack([self.scales[e, "w2"] for e in experts])
        return pack_int4(both(self.values)), pack_int4(down), both(self.scales), scales

    def tensors(self, name: str) -> dict[tuple[int, str], dict[str, torch.Tensor]]:
        """A checkpoint's tensors in a layout, by (expert, shard) and suffix."""
        return {key: self._stored(name, key) for key in self.values}

    def _stored(self, name: str, key: tuple[int, str]) -> dict[str, torch.Tensor]:
        values, scale = self.values[key], self.scales[key]
        if name == "int-quantized":
            return {"weight": values, "weight_scale": scale[:, None].to(torch.bfloat16)}
        n, k = values.shape
        order = _NIBBLES.get(name, list(range(8)))
        nibbles = (values.to(torch.int64) + (8 if name == "pack-quantized" else 0)) & 0xF
        words = torch.zeros((n, k // 8), dtype=torch.int64)
        for place, value in enumerate(order):
            words |= nibbles.reshape(n, -1, 8)[..., value] << (4 * place)
        packed = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
        if name == "pack-quantized":
            shape = torch.tensor([n, k])
            return {"weight_packed": packed, "weight_scale": scale[:, None].bfloat16(), "weight_shape": shape}
        whole = torch.tensor([0.5 if key[1] == "w1" else 0.25])  # unlike ones of gate and up
        return {"weight": packed, "weight_scale": whole, "weight_scale_2": scale / whole}


def small(experts: int = 6, model_dim: int = 128, inter_dim: int = 64, seed: int = 0) -> Small:
    """Random experts; scales are bfloat16 values, which every layout can hold."""
    generator = torch.Generator().manual_seed(seed)
    values, scales = {}, {}
    for expert in range(experts):
        for shard in SHARDS:
            n, k = (model_dim, inter_dim) if shard == "w2" else (inter_dim, model_dim)
            values[expert, shard] = torch.randint(-8, 8, (n, k), generator=generator, dtype=torch.int8)
            scales[expert, shard] = (torch.rand(n, generator=generator) * 0.02 + 0.005).bfloat16().float()
    return Small(values, scales, experts, model_dim, inter_dim)


def layout_of(name: str) -> Layout:
    return LAYOUTS[name]
