"""Integer vector instructions against Python integers, lane by lane."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autotune.emulate.errors import NotEmulated
from tests.emulate.bench import EXECS, active, execute, fresh, get, put

M32 = 0xFFFF_FFFF


def s32(x: int) -> int:
    return x - (1 << 32) if x >> 31 & 1 else x


def s(x: int, bits: int) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def bytes_of(x: int) -> list[int]:
    return [x >> 8 * i & 255 for i in range(4)]


def perm(a: int, b: int, sel: int) -> int:
    data = bytes_of(b) + bytes_of(a)

    def pick(code: int) -> int:
        if code >= 13:
            return 255
        if code == 12:
            return 0
        if code >= 8:
            return 255 if data[2 * (code - 8) + 1] & 0x80 else 0
        return data[code]

    return sum(pick(sel >> 8 * i & 255) << 8 * i for i in range(4))


def dot(a: int, b: int, c: int, width: int, signed: bool) -> int:
    total = c
    for i in range(32 // width):
        x, y = (v >> width * i & ((1 << width) - 1) for v in (a, b))
        total += (s(x, width) * s(y, width)) if signed else x * y
    return total


def bfe_i(a: int, o: int, w: int) -> int:
    w &= 31
    return s(a >> (o & 31), w) if w else 0


def clamp(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


# Opcode: (number of sources, reference on unsigned 32-bit integers; the result is taken modulo 2**32).
CASES: dict[str, tuple[int, Callable[..., int]]] = {
    "v_mov_b32_e32": (1, lambda a: a),
    "v_not_b32_e32": (1, lambda a: ~a),
    "v_bfrev_b32_e32": (1, lambda a: int(f"{a:032b}"[::-1], 2)),
    "v_ffbh_u32_e32": (1, lambda a: 32 - a.bit_length() if a else -1),
    "v_ffbl_b32_e32": (1, lambda a: (a & -a).bit_length() - 1),
    "v_ffbh_i32_e32": (1, lambda a: -1 if a in {0, M32} else 32 - (a ^ (M32 * (a >> 31))).bit_length()),
    "v_and_b32_e32": (2, lambda a, b: a & b),
    "v_or_b32_e32": (2, lambda a, b: a | b),
    "v_xor_b32_e32": (2, lambda a, b: a ^ b),
    "v_xnor_b32_e32": (2, lambda a, b: ~(a ^ b)),
    "v_lshlrev_b32_e32": (2, lambda a, b: b << (a & 31)),
    "v_lshrrev_b32_e32": (2, lambda a, b: b >> (a & 31)),
    "v_ashrrev_i32_e32": (2, lambda a, b: s32(b) >> (a & 31)),
    "v_add_u32_e32": (2, lambda a, b: a + b),
    "v_sub_u32_e32": (2, lambda a, b: a - b),
    "v_subrev_u32_e32": (2, lambda a, b: b - a),
    "v_add_i32": (2, lambda a, b: a + b),
    "v_sub_i32": (2, lambda a, b: a - b),
    "v_min_u32_e32": (2, min),
    "v_max_u32_e32": (2, max),
    "v_min_i32_e32": (2, lambda a, b: min(s32(a), s32(b))),
    "v_max_i32_e32": (2, lambda a, b: max(s32(a), s32(b))),
    "v_mul_u32_u24_e32": (2, lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF)),
    "v_mul_hi_u32_u24_e32": (2, lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF) >> 32),
    "v_mul_i32_i24_e32": (2, lambda a, b: s(a, 24) * s(b, 24)),
    "v_mul_hi_i32_i24_e32": (2, lambda a, b: s(a, 24) * s(b, 24) >> 32),
    "v_mul_lo_u32": (2, lambda a, b: a * b),
    "v_mul_hi_u32": (2, lambda a, b: a * b >> 32),
    "v_mul_hi_i32": (2, lambda a, b: s32(a) * s32(b) >> 32),
    "v_bfm_b32": (2, lambda a, b: ((1 << (a & 31)) - 1) << (b & 31)),
    "v_bcnt_u32_b32": (2, lambda a, b: a.bit_count() + b),
    "v_cvt_pk_u16_u32": (2, lambda a, b: min(a, 0xFFFF) | min(b, 0xFFFF) << 16),
    "v_cvt_pk_i16_i32": (
        2,
        lambda a, b: (
            clamp(s32(a), -0x8000, 0x7FFF) & 0xFFFF | (clamp(s32(b), -0x8000, 0x7FFF) & 0xFFFF) << 16
        ),
    ),
    "v_add3_u32": (3, lambda a, b, c: a + b + c),
    "v_or3_b32": (3, lambda a, b, c: a | b | c),
    "v_and_or_b32": (3, lambda a, b, c: a & b | c),
    "v_bfi_b32": (3, lambda a, b, c: a & b | ~a & c),
    "v_xad_u32": (3, lambda a, b, c: (a ^ b) + c),
    "v_lshl_or_b32": (3, lambda a, b, c: a << (b & 31) | c),
    "v_lshl_add_u32": (3, lambda a, b, c: (a << (b & 31)) + c),
    "v_add_lshl_u32": (3, lambda a, b, c: (a + b & M32) << (c & 31)),
    "v_alignbit_b32": (3, lambda a, b, c: (a << 32 | b) >> (c & 31)),
    "v_alignbyte_b32": (3, lambda a, b, c: (a << 32 | b) >> 8 * (c & 3)),
    "v_perm_b32": (3, perm),
    "v_bfe_u32": (3, lambda a, b, c: a >> (b & 31) & ((1 << (c & 31)) - 1)),
    "v_bfe_i32": (3, bfe_i),
    "v_mad_u32_u24": (3, lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF) + c),
    "v_mad_i32_i24": (3, lambda a, b, c: s(a, 24) * s(b, 24) + c),
    "v_mad_u32_u16": (3, lambda a, b, c: (a & 0xFFFF) * (b & 0xFFFF) + c),
    "v_mad_i32_i16": (3, lambda a, b, c: s(a, 16) * s(b, 16) + c),
    "v_min3_u32": (3, min),
    "v_max3_u32": (3, max),
    "v_med3_u32": (3, lambda *v: sorted(v)[1]),
    "v_min3_i32": (3, lambda *v: min(map(s32, v))),
    "v_max3_i32": (3, lambda *v: max(map(s32, v))),
    "v_med3_i32": (3, lambda *v: sorted(map(s32, v))[1]),
    "v_sad_u8": (
        3,
        lambda a, b, c: sum(abs(x - y) for x, y in zip(bytes_of(a), bytes_of(b), strict=True)) + c,
    ),
    "v_sad_u32": (3, lambda a, b, c: abs(a - b) + c),
    "v_dot4_i32_i8": (3, lambda a, b, c: dot(a, b, c, 8, True)),
    "v_dot4_u32_u8": (3, lambda a, b, c: dot(a, b, c, 8, False)),
    "v_dot8_i32_i4": (3, lambda a, b, c: dot(a, b, c, 4, True)),
    "v_dot8_u32_u4": (3, lambda a, b, c: dot(a, b, c, 4, False)),
    "v_dot2_i32_i16": (3, lambda a, b, c: dot(a, b, c, 16, True)),
    "v_dot2_u32_u16": (3, lambda a, b, c: dot(a, b, c, 16, False)),
}

# Opcodes on the low 16 bits; the high half of the destination becomes zero.
CASES16: dict[str, tuple[int, Callable[..., int]]] = {
    "v_add_u16_e32": (2, lambda a, b: a + b),
    "v_sub_u16_e32": (2, lambda a, b: a - b),
    "v_subrev_u16_e32": (2, lambda a, b: b - a),
    "v_mul_lo_u16_e32": (2, lambda a, b: a * b),
    "v_lshlrev_b16_e32": (2, lambda a, b: b << (a & 15)),
    "v_lshrrev_b16_e32": (2, lambda a, b: b >> (a & 15)),
    "v_ashrrev_i16_e32": (2, lambda a, b: s(b, 16) >> (a & 15)),
    "v_min_u16_e32": (2, min),
    "v_max_u16_e32": (2, max),
    "v_min_i16_e32": (2, lambda a, b: min(s(a, 16), s(b, 16))),
    "v_max_i16_e32": (2, lambda a, b: max(s(a, 16), s(b, 16))),
}
KEEPING16: dict[str, tuple[int, Callable[..., int]]] = {
    "v_mad_u16": (3, lambda a, b, c: a * b + c),
    "v_mad_i16": (3, lambda a, b, c: s(a, 16) * s(b, 16) + s(c, 16)),
    "v_add_i16": (2, lambda a, b: a + b),
    "v_sub_i16": (2, lambda a, b: a - b),
    "v_max3_i16": (3, lambda *v: max(s(x, 16) for x in v)),
    "v_min3_u16": (3, min),
    "v_med3_i16": (3, lambda *v: sorted(s(x, 16) for x in v)[1]),
}


def sources(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    edges = np.array(
        [
            0,
            1,
            2,
            31,
            32,
            0x7F,
            0x80,
            0xFF,
            0x7FFF,
            0x8000,
            0xFFFF,
            0x7FFFFF,
            0x800000,
            0xFFFFFF,
            0x7FFFFFFF,
            0x80000000,
            M32,
        ],
        np.uint32,
    )
    found = []
    for _ in range(count):
        values = rng.integers(0, 1 << 32, 64, np.uint32) >> rng.integers(0, 32, 64).astype(np.uint32)
        values[: len(edges)] = rng.permutation(edges)
        found.append(values)
    return found


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize(
    "registers", [(1, 2, 3, 4), (1, 1, 2, 3), (200, 201, 255, 130)], ids=["low", "in-place", "high"]
)
@pytest.mark.parametrize("opcode", CASES)
def test_32_bits(opcode: str, registers: tuple[int, ...], exec_name: str) -> None:
    count, reference = CASES[opcode]
    wave = fresh(EXECS[exec_name])
    result, *rows = registers[: count + 1]
    for row, value in zip(rows, sources(count), strict=True):
        put(wave, row, value)
    before = wave.v.copy()
    inputs = [before[row].tolist() for row in rows]
    execute(wave, f"{opcode} v{result}, " + ", ".join(f"v{row}" for row in rows))
    expected = np.array([reference(*lane) & M32 for lane in zip(*inputs, strict=True)], np.uint32)
    before[result] = np.where(active(EXECS[exec_name]), expected, before[result])
    np.testing.assert_array_equal(wave.v, before)


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("row", [3, 180])
@pytest.mark.parametrize("opcode", CASES16 | KEEPING16)
def test_16_bits(opcode: str, row: int, exec_name: str) -> None:
    count, reference = (CASES16 | KEEPING16)[opcode]
    wave = fresh(EXECS[exec_name])
    for i, value in enumerate(sources(count)):
        put(wave, row + i, value)
    before = wave.v.copy()
    inputs = [(before[row + i] & 0xFFFF).tolist() for i in range(count)]
    execute(wave, f"{opcode} v{row}, " + ", ".join(f"v{row + i}" for i in range(count)))
    expected = np.array([reference(*lane) & 0xFFFF for lane in zip(*inputs, strict=True)], np.uint32)
    if opcode in KEEPING16:
        expected |= before[row] & np.uint32(0xFFFF0000)
    before[row] = np.where(active(EXECS[exec_name]), expected, before[row])
    np.testing.assert_array_equal(wave.v, before)


def test_op_sel_picks_halves_of_sources_and_destination() -> None:
    wave = fresh()
    put(wave, 1, np.full(64, 0x0003_0005, np.uint32))
    put(wave, 2, np.full(64, 0x0007_000B, np.uint32))
    put(wave, 3, np.full(64, 0x000D_0011, np.uint32))
    put(wave, 4, np.full(64, 0xAAAA_BBBB, np.uint32))
    execute(wave, "v_mad_u16 v4, v1, v2, v3 op_sel:[1,0,1,1]")
    assert wave.v[4, 0] == (3 * 11 + 13) << 16 | 0xBBBB


# Name: (source kinds, result width, reference).
WIDE: dict[str, tuple[str, Callable[..., int]]] = {
    "v_lshlrev_b64": ("uq", lambda a, b: b << (a & 63)),
    "v_lshrrev_b64": ("uq", lambda a, b: b >> (a & 63)),
    "v_ashrrev_i64": ("uq", lambda a, b: s(b, 64) >> (a & 63)),
    "v_mov_b64_e32": ("q", lambda a: a),
}


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("base", [10, 240])
@pytest.mark.parametrize("opcode", WIDE)
def test_64_bits(opcode: str, base: int, exec_name: str) -> None:
    kinds, reference = WIDE[opcode]
    wave = fresh(EXECS[exec_name])
    texts, inputs, row = [], [], base
    for kind in kinds:
        if kind == "u":
            texts.append(f"v{row}")
            inputs.append(get(wave, row, np.uint32).tolist())
            row += 2  # pairs start at even registers
        else:
            texts.append(f"v[{row}:{row + 1}]")
            inputs.append(get(wave, row, np.uint64, 2).tolist())
    before = get(wave, row, np.uint64, 2)
    execute(wave, f"{opcode} v[{row}:{row + 1}], " + ", ".join(texts))  # in place
    expected = np.array([reference(*lane) & (1 << 64) - 1 for lane in zip(*inputs, strict=True)], np.uint64)
    np.testing.assert_array_equal(
        get(wave, row, np.uint64, 2), np.where(active(EXECS[exec_name]), expected, before)
    )


@pytest.mark.parametrize("shift", [0, 2, 4])
def test_lshl_add_u64_with_scalar_base(shift: int) -> None:
    wave = fresh()
    wave.set64(8, 0x7FFF_FFFF_FFF0)
    a = get(wave, 2, np.uint64, 2)
    execute(wave, f"v_lshl_add_u64 v[4:5], v[2:3], {shift}, s[8:9]")
    expected = (a << np.uint64(shift)) + np.uint64(0x7FFF_FFFF_FFF0)
    np.testing.assert_array_equal(get(wave, 4, np.uint64, 2), expected)


@pytest.mark.parametrize(
    ("text", "a", "b", "expected"),
    [
        ("v_add_u32_e64 v3, v1, v2 clamp", M32, 5, M32),
        ("v_sub_u32_e64 v3, v1, v2 clamp", 3, 5, 0),
        ("v_add_i32 v3, v1, v2 clamp", 0x7FFFFFFF, 1, 0x7FFFFFFF),
        ("v_sub_i32 v3, v1, v2 clamp", 0x80000000, 1, 0x80000000),
        ("v_add_u16_e64 v3, v1, v2 clamp", 0xFFFF, 1, 0xFFFF),
    ],
)
def test_integer_clamp_saturates(text: str, a: int, b: int, expected: int) -> None:
    wave = fresh()
    put(wave, 1, np.full(64, a, np.uint32))
    put(wave, 2, np.full(64, b, np.uint32))
    execute(wave, text)
    assert wave.v[3, 17] == expected


@pytest.mark.parametrize("opcode", ["v_dot4c_i32_i8_e32", "v_dot8c_i32_i4_e32", "v_dot2c_i32_i16_e32"])
def test_dot_into_the_destination(opcode: str) -> None:
    wave = fresh()
    width = {"dot4c": 8, "dot8c": 4, "dot2c": 16}[opcode.split("_")[1]]
    a, b, c = (get(wave, row, np.uint32).tolist() for row in (1, 2, 150))
    execute(wave, f"{opcode} v150, v1, v2")
    assert wave.v[150].tolist() == [dot(*lane, width, True) & M32 for lane in zip(a, b, c, strict=True)]


def test_scalar_and_constant_sources() -> None:
    wave = fresh()
    wave.s[7] = 0x8000_0001
    put(wave, 1, np.arange(64, dtype=np.uint32))
    execute(wave, "v_add_u32_e32 v2, s7, v1", "v_add_u32_e32 v3, -1, v1", "v_and_b32_e32 v4, 0xff00ff, v2")
    np.testing.assert_array_equal(wave.v[2], np.arange(64, dtype=np.uint32) + np.uint32(0x8000_0001))
    np.testing.assert_array_equal(wave.v[3].view(np.int32), np.arange(64) - 1)
    np.testing.assert_array_equal(wave.v[4], wave.v[2] & np.uint32(0xFF00FF))


def test_the_same_number_as_integer_and_as_float_constant() -> None:
    wave = fresh()
    execute(wave, "v_mov_b32_e32 v1, 1", "v_mov_b32_e32 v2, 1.0", "v_mov_b32_e32 v3, 1")
    assert [int(wave.v[row, 5]) for row in (1, 2, 3)] == [1, 0x3F800000, 1]


def test_moves_between_vgprs_and_accvgprs() -> None:
    wave = fresh(EXECS["partial"])
    source, target = wave.v[130].copy(), wave.v[256 + 200].copy()
    execute(
        wave, "v_accvgpr_write_b32 a200, v130", "v_accvgpr_mov_b32 a201, a200", "v_accvgpr_read_b32 v9, a201"
    )
    on = active(EXECS["partial"])
    np.testing.assert_array_equal(wave.v[256 + 200], np.where(on, source, target))
    np.testing.assert_array_equal(wave.v[9][on], source[on])


def test_cndmask_takes_neg_and_abs_as_a_float_does() -> None:
    wave = fresh()
    wave.set64(20, 0xFFFF_FFFF)
    put(wave, 1, np.full(64, 1.5, np.float32))
    put(wave, 2, np.full(64, -2.5, np.float32))
    execute(wave, "v_cndmask_b32_e64 v3, -v1, |v2|, s[20:21]")
    np.testing.assert_array_equal(get(wave, 3, np.float32), [2.5] * 32 + [-1.5] * 32)


@pytest.mark.parametrize(
    "text",
    [
        "v_frobnicate_b32 v0, v1",
        "v_add_u32_e32 v0, v1",
        "v_add_u32_e32 v0, v1, v2 wobble:3",
        "v_add_u32_e32 v0, v[1:2], v2",
        "v_add_u32_e32 s0, v1, v2",
        "v_add_u32_e32 v0, -v1, v2",
        "v_mul_lo_u32 v0, v1, v2 clamp",
        "v_mov_b32_e32 v0, src_shared_base",
        "v_add_u32_e32 v256, v1, v2",
    ],
)
def test_what_is_not_known_is_not_emulated(text: str) -> None:
    with pytest.raises(NotEmulated, match=r"line 1: `v_"):
        execute(fresh(), text)
