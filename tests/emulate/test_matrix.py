"""Every matrix instruction by one-hot operands, against the layout that the ISA guide gives, and by random
ones.
"""

from __future__ import annotations

import numpy as np
import pytest

from autotune.emulate import fp8
from autotune.emulate.errors import NotEmulated
from tests.emulate.bench import execute, fresh

# Mnemonic: (M, K, blocks, element type of A, of B). Values a lane follow from these.
SHAPES = {
    "v_mfma_i32_16x16x32_i8": (16, 32, 1, "i8", "i8"),
    "v_mfma_i32_32x32x16_i8": (32, 16, 1, "i8", "i8"),
    "v_mfma_i32_32x32x4_2b_i8": (32, 4, 2, "i8", "i8"),
    "v_mfma_i32_16x16x4_4b_i8": (16, 4, 4, "i8", "i8"),
    "v_mfma_i32_4x4x4_16b_i8": (4, 4, 16, "i8", "i8"),
    "v_mfma_f32_16x16x16_bf16": (16, 16, 1, "bf16", "bf16"),
    "v_mfma_f32_32x32x8_bf16": (32, 8, 1, "bf16", "bf16"),
    "v_mfma_f32_32x32x4_2b_bf16": (32, 4, 2, "bf16", "bf16"),
    "v_mfma_f32_16x16x4_4b_bf16": (16, 4, 4, "bf16", "bf16"),
    "v_mfma_f32_4x4x4_16b_bf16": (4, 4, 16, "bf16", "bf16"),
    "v_mfma_f32_16x16x16_f16": (16, 16, 1, "f16", "f16"),
    "v_mfma_f32_32x32x8_f16": (32, 8, 1, "f16", "f16"),
    "v_mfma_f32_32x32x4_2b_f16": (32, 4, 2, "f16", "f16"),
    "v_mfma_f32_16x16x4_4b_f16": (16, 4, 4, "f16", "f16"),
    "v_mfma_f32_4x4x4_16b_f16": (4, 4, 16, "f16", "f16"),
    "v_mfma_f32_16x16x4_f32": (16, 4, 1, "f32", "f32"),
    "v_mfma_f32_32x32x2_f32": (32, 2, 1, "f32", "f32"),
    "v_mfma_f32_32x32x1_2b_f32": (32, 1, 2, "f32", "f32"),
    "v_mfma_f32_16x16x1_4b_f32": (16, 1, 4, "f32", "f32"),
    "v_mfma_f32_4x4x1_16b_f32": (4, 1, 16, "f32", "f32"),
    "v_mfma_f32_16x16x8_xf32": (16, 8, 1, "xf32", "xf32"),
    "v_mfma_f32_32x32x4_xf32": (32, 4, 1, "xf32", "xf32"),
    **{
        f"v_mfma_f32_{shape}_{a}_{b}": (m, k, 1, a, b)
        for shape, m, k in (("16x16x32", 16, 32), ("32x32x16", 32, 16))
        for a in ("fp8", "bf8")
        for b in ("fp8", "bf8")
    },
}
BYTES = {"i8": 1, "fp8": 1, "bf8": 1, "f16": 2, "bf16": 2, "f32": 4, "xf32": 4}


def encode(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers to bytes uint8[n, size]."""
    if kind == "i8":
        raw = values.astype(np.int8)
    elif kind in {"fp8", "bf8"}:
        raw = fp8.encode(values.astype(np.float32), kind)
    elif kind == "f16":
        raw = values.astype(np.float16)
    elif kind == "bf16":
        raw = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        raw = values.astype(np.float32)
    return raw.reshape(-1, 1).view(np.uint8)


def place(matrix: np.ndarray, kind: str, k_lane: int) -> np.ndarray:
    """[blocks, M, K] into registers uint32[n, 64]: lane = i + M·(block or K group), k_lane values a lane."""
    blocks, m, k = matrix.shape
    raw = np.zeros((64, k_lane * BYTES[kind]), np.uint8)
    for b in range(blocks):
        for i in range(m):
            for group in range(k // k_lane):
                part = matrix[b, i, group * k_lane : (group + 1) * k_lane]
                raw[i + m * (b * (k // k_lane) + group)] = encode(part, kind).reshape(-1)
    return raw.view(np.uint32).T


def fetch(registers: np.ndarray, m: int, blocks: int) -> np.ndarray:
    """Result registers [n, 64] into [blocks, M, N], written out shape by shape as the guide's tables have
    it.
    """
    out = np.zeros((blocks, m, m), registers.dtype)
    for r in range(len(registers)):
        for lane in range(64):
            if m == 32:
                block, i = divmod(r, 16)
                row, column = 8 * (i // 4) + 4 * (lane // 32) + i % 4, lane % 32
            elif m == 16:
                block, i = divmod(r, 4)
                row, column = 4 * (lane // 16) + i, lane % 16
            else:
                block, row, column = lane // 4, r, lane % 4
            out[block, row, column] = registers[r, lane]
    return out


def multiply(
    name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, base: str = "v", start: int = 0
) -> np.ndarray:
    """Runs one instruction on A [blocks, M, K], B [blocks, N, K] and C registers; result [blocks, M, N]."""
    m, k, blocks, kind_a, kind_b = SHAPES[name]
    k_lane = m * k * blocks // 64
    wave = fresh(0x1234)  # EXEC must not matter
    count, outputs = k_lane * BYTES[kind_a] // 4, blocks * m * m // 64
    offset = 256 if base == "a" else 0
    rows = (start, start + 4, start + 8)
    wave.v[offset + rows[0] : offset + rows[0] + count] = place(a, kind_a, k_lane)
    wave.v[offset + rows[1] : offset + rows[1] + count] = place(b, kind_b, k_lane)
    wave.v[offset + rows[2] : offset + rows[2] + outputs] = c
    texts = [
        f"{base}[{r}:{r + n - 1}]" if n > 1 else f"{base}{r}"
        for r, n in zip(rows, (count, count, outputs), strict=True)
    ]
    execute(wave, f"{name} {texts[2]}, {texts[0]}, {texts[1]}, {texts[2]}")
    dtype = np.int32 if "i32" in name else np.float32
    return fetch(wave.v[offset + rows[2] : offset + rows[2] + outputs].view(dtype), m, blocks)


@pytest.mark.parametrize("name", SHAPES)
def test_one_hot(name: str) -> None:
    """One element of A and of B at a time: only their product may appear, and only in its place."""
    m, k, blocks, _, _ = SHAPES[name]
    rng = np.random.default_rng(0)
    outputs = blocks * m * m // 64
    zero = np.zeros((outputs, 64), np.uint32)
    for _ in range(12):
        block, i, j, kk = (int(rng.integers(n)) for n in (blocks, m, m, k))
        a, b = np.zeros((blocks, m, k)), np.zeros((blocks, m, k))
        a[block, i, kk], b[block, j, kk] = 3, -2
        expected = np.zeros((blocks, m, m))
        expected[block, i, j] = -6
        np.testing.assert_array_equal(multiply(name, a, b, zero), expected)
        if k > 1:
            b[block, j] = np.roll(b[block, j], 1)  # another k: nothing may meet
            assert not multiply(name, a, b, zero).any()


@pytest.mark.parametrize(("base", "start"), [("v", 128), ("a", 0), ("a", 200)])
@pytest.mark.parametrize("name", SHAPES)
def test_random_operands_in_high_registers_and_accvgprs(name: str, base: str, start: int) -> None:
    m, k, blocks, _, _ = SHAPES[name]
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-8, 8, (blocks, m, k)).astype(float) for _ in range(2))
    outputs = blocks * m * m // 64
    c = rng.integers(-100, 100, (outputs, 64))
    words = c.astype(np.int32).view(np.uint32) if "i32" in name else c.astype(np.float32).view(np.uint32)
    expected = a @ b.transpose(0, 2, 1) + fetch(c.astype(float), m, blocks)
    np.testing.assert_array_equal(multiply(name, a, b, words, base, start), expected)


def test_integer_accumulator_wraps() -> None:
    a = np.full((1, 16, 32), -128.0)
    c = np.full((4, 64), 0x7FFF_FFF0, np.uint32)
    got = multiply("v_mfma_i32_16x16x32_i8", a, a, c)
    assert got[0, 3, 5] == (0x7FFF_FFF0 + 32 * 128 * 128 + 2**31) % 2**32 - 2**31


def test_constant_addend() -> None:
    wave = fresh()
    wave.v[:4] = 0
    execute(
        wave,
        "v_mfma_f32_16x16x16_f16 v[8:11], v[0:1], v[2:3], 1.0",
        "v_mfma_i32_16x16x32_i8 a[0:3], v[0:1], v[2:3], 0",
    )
    assert (wave.v[8:12].view(np.float32) == 1).all()
    assert not wave.v[256:260].any()


def test_xf32_drops_low_mantissa_bits() -> None:
    a, b = np.zeros((1, 16, 8)), np.zeros((1, 16, 8))
    a[0, 0, 0], b[0, 0, 0] = 1 + 2**-12, 1.0
    got = multiply("v_mfma_f32_16x16x8_xf32", a, b, np.zeros((4, 64), np.uint32))
    assert got[0, 0, 0] == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "v_mfma_f32_16x16x32_bf16 v[8:11], v[0:3], v[4:7], 0",  # the next generation's
        "v_mfma_f32_16x16x16_f16 v[8:11], v[0:1], v[2:3], 0 cbsz:1",
        "v_mfma_f64_16x16x4_f64 v[8:15], v[0:1], v[2:3], 0",
        "v_smfmac_i32_16x16x64_i8 v[8:11], v[0:1], v[2:5], v6",
        "v_mfma_i32_16x16x32_i8 v[8:10], v[0:1], v[2:3], 0",
    ],
)
def test_not_emulated(text: str) -> None:
    with pytest.raises(NotEmulated):
        execute(fresh(), text)
