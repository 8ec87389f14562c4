"""The arithmetic of the stand-in kernels, with the mistakes that illegal tiles make."""

import functools
from dataclasses import dataclass

import torch


@dataclass
class Block:
    """The valid rows of one block: positions in the sorted list, tokens, slots, and the block's expert."""

    rows: torch.Tensor
    token: torch.Tensor
    slot: torch.Tensor
    expert: int


class Blocks:
    """Walks over the launched blocks as workgroups do: by tile_m rows, whatever the sort's block size was."""

    def __init__(self, ids, eids, valid, blocks, tile_m, tokens):
        self.ids, self.eids, self.valid = ids, eids, valid
        self.blocks, self.tile_m, self.tokens = blocks, tile_m, tokens

    def __iter__(self):
        for index in range(self.blocks):
            start = index * self.tile_m
            if start >= self.valid:
                return
            rows = torch.arange(start, min(start + self.tile_m, len(self.ids)))
            packed = self.ids[rows]
            token, slot = packed & 0xFFFFFF, packed >> 24
            real = token < self.tokens
            if bool(real.any()):
                yield Block(rows[real], token[real].long(), slot[real].long(), int(self.eids[index]))


def computed_columns(width, tile_n):
    """Columns that are written: whole workgroups only, and of each what four waves of 16 columns cover."""
    covered = tile_n // 64 * 64
    return torch.cat(
        [torch.arange(tile * tile_n, tile * tile_n + covered) for tile in range(width // tile_n)]
        or [torch.arange(0)]
    )


@functools.lru_cache(maxsize=64)
def addresses(expert, n, k):
    """Where each of an expert's weights is, and which are in a byte's lower half."""
    row = (expert * n + torch.arange(n))[:, None]
    column = torch.arange(k)[None, :]
    address = row // 16 * (k // 64 * 512) + column // 64 * 512 + column % 64 // 16 * 128
    address = address + row % 16 * 8 + column % 16 // 8 * 4 + column % 4
    return address, column % 8 < 4


def unpacked(w, expert, n, k, experts):
    """One expert's weights out of the packed buffer, by the address of each."""
    address, lower = addresses(expert, n, k)
    byte = w.view(-1)[address].to(torch.int32)
    return torch.where(lower, (byte & 15).add(8).remainder(16) - 8, byte >> 4).to(torch.int8)


def gemm_rows(x, w, expert, n, k, experts, tile_k, two):
    """float32 [rows, n]: exact, unless the tile of K does not fit."""
    weights = unpacked(w, expert, n, k, experts)
    y = x.float() @ weights.float().T
    tiles = k // tile_k
    if tiles == 0 or k % tile_k or (not two and tiles % 2) or (tile_k // 16) & (tile_k // 16 - 1):
        return y * 1.5  # what lies beyond the end is multiplied in as well
    return y
