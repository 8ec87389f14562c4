"""Problems for the Triton kernels of `triton_kernels`: arguments, grid and the expected result.

Each function returns a `Case`; its reference is plain numpy in float64 and knows nothing of tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.emulate import fp8
from autotune.emulate.atomic_ops import bf16_to_f32, f32_to_bf16


@dataclass(frozen=True)
class Case:
    """Arguments (outputs among them, zeroed), grid, and how far the outputs are from the reference.

    `error()` is the largest deviation over the largest magnitude of the reference.
    """

    arguments: list[Any]
    grid: tuple[int, int, int]
    error: Callable[[], float]


def deviation(got: np.ndarray, expected: np.ndarray) -> float:
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def silu(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def numbers(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Raw values of a Triton element type, and what they stand for."""
    if kind == "i8":
        raw = rng.integers(-128, 128, shape, np.int8)
        return raw, raw.astype(float)
    wide = rng.standard_normal(shape).astype(np.float32)
    if kind == "fp32":
        return wide, wide.astype(float)
    if kind == "fp16":
        half = wide.astype(np.float16)
        return half, half.astype(float)
    if kind == "bf16":
        codes = f32_to_bf16(wide)
        return codes, bf16_to_f32(codes).astype(float)
    name = {"fp8e4b8": "fp8", "fp8e5b16": "bf8"}[kind]
    codes = fp8.encode(wide.reshape(-1), name).reshape(shape)
    return codes, fp8.decode(codes, name).astype(float)


def gemm(kind: str, m: int = 21, n: int = 100, k: int = 256, tile_m: int = 16) -> Case:
    rng = np.random.default_rng(3)
    (a, x), (b, y) = numbers(rng, (m, k), kind), numbers(rng, (n, k), kind)
    scale_a = (rng.random(m) + 0.5).astype(np.float32) * np.float32(1e-3 if kind == "i8" else 0.1)
    scale_b = (rng.random(n) + 0.5).astype(np.float32) * np.float32(1e-2 if kind == "i8" else 1)
    expected = silu(x @ y.T * scale_a[:, None].astype(float) * scale_b)
    out = np.zeros((m, n), np.uint16)
    grid = (-(-m // tile_m), -(-n // 64), 1)
    return Case([a, b, out, scale_a, scale_b, m, n], grid, lambda: deviation(bf16_to_f32(out), expected))


def moe(gated: bool, k: int = 256, tile_m: int = 16, split: int = 1, tokens: int = 11, n: int = 97) -> Case:
    """One stage, every token with 2 of 3 experts: full and padded blocks, an empty one, a last tile that is
    not full.
    """
    rng = np.random.default_rng(4)
    topk, experts, width = 2, 3, 2 if gated else 1
    slots = np.arange(tokens * topk)
    x = rng.integers(-128, 128, (tokens if gated else tokens * topk, k), np.int8)
    w = rng.integers(-8, 8, (experts, n * width, k)).astype(np.int8)
    packed = (w[..., 0::2] & 15 | w[..., 1::2] << 4).astype(np.int8)
    expert = np.concatenate([rng.choice(experts, topk, replace=False) for _ in range(tokens)])
    token_of, expert_of = [], []
    for e in range(experts):
        mine = slots[expert == e].tolist()
        for start in range(0, len(mine), tile_m):
            rows = mine[start : start + tile_m]
            token_of += rows + [tokens * topk] * (tile_m - len(rows))
            expert_of.append(e)
    token_of += [tokens * topk] * tile_m
    expert_of.append(-1)
    x_scale = (rng.random(len(x)) + 0.5).astype(np.float32) * np.float32(1e-2)
    w_scale = (rng.random((experts, n * width)) + 0.5).astype(np.float32) * np.float32(1e-2)
    weight = rng.random(tokens * topk).astype(np.float32)
    row = slots // topk if gated else slots
    acc = np.einsum("sk,snk->sn", x[row].astype(np.int64), w[expert].astype(np.int64))
    value = acc * x_scale[row][:, None].astype(float) * w_scale[expert]
    if gated:
        out = np.zeros((tokens * topk, n), np.uint16)
        expected = silu(value[:, :n]) * value[:, n:]
        error = lambda: deviation(bf16_to_f32(out), expected)  # noqa: E731
    else:
        out = np.zeros((tokens, n), np.float32)
        total = (value * weight[:, None]).reshape(tokens, topk, n).sum(1)
        error = lambda: deviation(out, total)  # noqa: E731
    arguments = [
        x,
        packed,
        out,
        x_scale,
        w_scale,
        np.array(token_of, np.int32),
        np.array(expert_of, np.int32),
        weight,
        tokens,
        n,
        topk,
    ]
    return Case(arguments, (len(expert_of), 2, split), error)


def quantise(rows: int = 3, k: int = 1000) -> Case:
    rng = np.random.default_rng(5)
    x = f32_to_bf16(rng.standard_normal((rows, k)).astype(np.float32))
    x[-1] = 0
    out, scale = np.zeros((rows, k), np.int8), np.full(rows, -1, np.float32)
    wide = bf16_to_f32(x)
    top = np.abs(wide).max(1) / np.float32(127)
    safe = np.where(top > 0, top, 1).astype(np.float32)
    expected = np.clip(np.floor(wide / safe[:, None] + np.float32(0.5)), -127, 127)
    return Case(
        [x, out, scale, k],
        (rows, 1, 1),
        lambda: max(deviation(out.astype(float), expected), deviation(scale, top)),
    )


def softmax(rows: int = 3, k: int = 1000) -> Case:
    x = (np.random.default_rng(6).standard_normal((rows, k)) * 4).astype(np.float32)
    y = np.zeros_like(x)
    e = np.exp(x.astype(float) - x.max(1, keepdims=True))
    return Case([x, y, k], (rows, 1, 1), lambda: deviation(y, e / e.sum(1, keepdims=True)))


def last_arriver(parts: int = 4, n: int = 500) -> Case:
    x = np.random.default_rng(7).standard_normal((parts, n)).astype(np.float32)
    partial, counter, total = (
        np.full((parts, 512), np.nan, np.float32),
        np.zeros(1, np.int32),
        np.zeros(n, np.float32),
    )
    return Case(
        [x, partial, counter, total, n],
        (parts, 1, 1),
        lambda: deviation(total, 2 * x.astype(float).sum(0)) + float(counter[0]),
    )


def scan_and_count(n: int = 900) -> Case:
    x = np.random.default_rng(8).integers(0, 100, n, np.int32)
    prefix, histogram = np.zeros(n, np.int32), np.zeros(8, np.int32)
    return Case(
        [x, prefix, histogram, n],
        (1, 1, 1),
        lambda: float(
            not (
                np.array_equal(prefix, np.cumsum(x))
                and np.array_equal(histogram, np.bincount(x % 8, minlength=8))
            )
        ),
    )
