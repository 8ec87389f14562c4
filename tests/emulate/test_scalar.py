"""Scalar instructions against Python integers."""

from __future__ import annotations

import itertools
from operator import eq, ge, gt, le, lt, ne

import pytest

from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import EXEC, M0, VCC
from tests.emulate.bench import execute, fresh

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
WORDS = [0, 1, 2, 31, 0x7FFF_FFFF, 0x8000_0000, M32, 0x1234_5678, 0x0010_0008]


def s(x: int, bits: int = 32) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def fits(x: int) -> int:
    return int(not -(1 << 31) <= x < 1 << 31)


def bfe(a: int, b: int, signed: bool, bits: int = 32) -> int:
    width, offset = b >> 16 & 0x7F, b & (bits - 1)
    value = (s(a, bits) if signed else a) >> offset & ((1 << width) - 1)
    return s(value, width) if signed and width else value


# Opcode: reference giving (result, SCC after); SCC None means unchanged.
TWO = {
    "s_add_u32": lambda a, b: (a + b, a + b >> 32),
    "s_sub_u32": lambda a, b: (a - b, int(b > a)),
    "s_add_i32": lambda a, b: (a + b, fits(s(a) + s(b))),
    "s_sub_i32": lambda a, b: (a - b, fits(s(a) - s(b))),
    "s_min_i32": lambda a, b: (min(s(a), s(b)), int(s(a) < s(b))),
    "s_max_i32": lambda a, b: (max(s(a), s(b)), int(s(a) >= s(b))),
    "s_min_u32": lambda a, b: (min(a, b), int(a < b)),
    "s_max_u32": lambda a, b: (max(a, b), int(a >= b)),
    "s_and_b32": lambda a, b: (a & b, int(a & b != 0)),
    "s_or_b32": lambda a, b: (a | b, int(a | b != 0)),
    "s_xor_b32": lambda a, b: (a ^ b, int(a != b)),
    "s_andn2_b32": lambda a, b: (a & ~b, int(a & ~b & M32 != 0)),
    "s_orn2_b32": lambda a, b: (a | ~b, int((a | ~b) & M32 != 0)),
    "s_nand_b32": lambda a, b: (~(a & b), int(~(a & b) & M32 != 0)),
    "s_nor_b32": lambda a, b: (~(a | b), int(~(a | b) & M32 != 0)),
    "s_xnor_b32": lambda a, b: (~(a ^ b), int(~(a ^ b) & M32 != 0)),
    "s_lshl_b32": lambda a, b: (a << (b & 31), int(a << (b & 31) & M32 != 0)),
    "s_lshr_b32": lambda a, b: (a >> (b & 31), int(a >> (b & 31) != 0)),
    "s_ashr_i32": lambda a, b: (s(a) >> (b & 31), int(s(a) >> (b & 31) != 0)),
    "s_bfe_u32": lambda a, b: (bfe(a, b, False), int(bfe(a, b, False) != 0)),
    "s_bfe_i32": lambda a, b: (bfe(a, b, True), int(bfe(a, b, True) != 0)),
    "s_absdiff_i32": lambda a, b: (abs(s(a) - s(b)), int(a != b)),
    "s_lshl2_add_u32": lambda a, b: ((a << 2) + b, int((a << 2) + b > M32)),
    "s_mul_i32": lambda a, b: (a * b, None),
    "s_mul_hi_u32": lambda a, b: (a * b >> 32, None),
    "s_mul_hi_i32": lambda a, b: (s(a) * s(b) >> 32, None),
    "s_bfm_b32": lambda a, b: (((1 << (a & 31)) - 1) << (b & 31), None),
    "s_pack_ll_b32_b16": lambda a, b: (a & 0xFFFF | b << 16, None),
    "s_pack_lh_b32_b16": lambda a, b: (a & 0xFFFF | b & 0xFFFF0000, None),
    "s_pack_hh_b32_b16": lambda a, b: (a >> 16 | b & 0xFFFF0000, None),
}
ONE = {
    "s_mov_b32": lambda a: (a, None),
    "s_not_b32": lambda a: (~a, int(a != M32)),
    "s_brev_b32": lambda a: (int(f"{a:032b}"[::-1], 2), None),
    "s_abs_i32": lambda a: (abs(s(a)), int(a != 0)),
    "s_sext_i32_i8": lambda a: (s(a, 8), None),
    "s_sext_i32_i16": lambda a: (s(a, 16), None),
    "s_ff1_i32_b32": lambda a: ((a & -a).bit_length() - 1, None),
    "s_flbit_i32_b32": lambda a: (32 - a.bit_length() if a else -1, None),
    "s_flbit_i32": lambda a: (-1 if a in {0, M32} else 32 - (a ^ M32 * (a >> 31)).bit_length(), None),
    "s_bcnt1_i32_b32": lambda a: (a.bit_count(), int(a != 0)),
    "s_bcnt0_i32_b32": lambda a: (32 - a.bit_count(), int(a != M32)),
}


@pytest.mark.parametrize("opcode", TWO)
def test_two_sources(opcode: str) -> None:
    wave = fresh()
    for a, b in itertools.product(WORDS, WORDS):
        for scc in (0, 1):
            wave.s[5], wave.s[6], wave.scc = a, b, scc
            execute(wave, f"{opcode} s5, s5, s6")
            result, flag = TWO[opcode](a, b)
            assert (wave.s[5], wave.scc) == (result & M32, scc if flag is None else flag), (a, b)


@pytest.mark.parametrize("opcode", ONE)
def test_one_source(opcode: str) -> None:
    wave = fresh()
    for a in WORDS:
        for scc in (0, 1):
            wave.s[5], wave.scc = a, scc
            execute(wave, f"{opcode} s101, s5")
            result, flag = ONE[opcode](a)
            assert (wave.s[101], wave.scc) == (result & M32, scc if flag is None else flag), a


WIDE = {
    "s_and_b64": lambda a, b: a & b,
    "s_or_b64": lambda a, b: a | b,
    "s_xor_b64": lambda a, b: a ^ b,
    "s_andn2_b64": lambda a, b: a & ~b,
    "s_orn2_b64": lambda a, b: a | ~b,
    "s_nand_b64": lambda a, b: ~(a & b),
    "s_nor_b64": lambda a, b: ~(a | b),
    "s_xnor_b64": lambda a, b: ~(a ^ b),
}
SHIFTS = {
    "s_lshl_b64": lambda a, n: a << (n & 63),
    "s_lshr_b64": lambda a, n: a >> (n & 63),
    "s_ashr_i64": lambda a, n: s(a, 64) >> (n & 63),
    "s_bfe_u64": lambda a, n: bfe(a, n, False, 64),
    "s_bfe_i64": lambda a, n: bfe(a, n, True, 64),
}
QUADS = [0, 1, M64, 0x8000_0000_0000_0000, 0x0123_4567_89AB_CDEF]


@pytest.mark.parametrize("opcode", WIDE | SHIFTS)
def test_64_bits(opcode: str) -> None:
    wave = fresh()
    for a, b in itertools.product(QUADS, QUADS if opcode in WIDE else WORDS):
        wave.set64(4, a)
        if opcode in WIDE:
            wave.set64(VCC, b)
        else:
            wave.s[VCC] = b
        execute(wave, f"{opcode} s[4:5], s[4:5], {'vcc' if opcode in WIDE else 'vcc_lo'}")
        expected = (WIDE | SHIFTS)[opcode](a, b) & M64
        assert (wave.get64(4), wave.scc) == (expected, int(expected != 0)), (hex(a), hex(b))


def test_carry_chains() -> None:
    wave = fresh()
    a, b = 0xFFFF_FFFF_0000_0001, 0x0000_0001_FFFF_FFFF
    wave.set64(4, a)
    wave.set64(6, b)
    execute(
        wave,
        "s_add_u32 s8, s4, s6",
        "s_addc_u32 s9, s5, s7",
        "s_sub_u32 s10, s4, s6",
        "s_subb_u32 s11, s5, s7",
    )
    assert wave.get64(8) == (a + b) & M64
    assert wave.get64(10) == (a - b) & M64
    assert wave.scc == 0


@pytest.mark.parametrize("kind", ["i32", "u32"])
@pytest.mark.parametrize("name", ["eq", "lg", "gt", "ge", "lt", "le"])
def test_comparisons(name: str, kind: str) -> None:
    relation = {"eq": eq, "lg": ne, "gt": gt, "ge": ge, "lt": lt, "le": le}[name]
    wave = fresh()
    for a, b in itertools.product(WORDS, WORDS):
        wave.s[5], wave.s[6] = a, b
        execute(wave, f"s_cmp_{name}_{kind} s5, s6")
        x, y = (s(a), s(b)) if kind == "i32" else (a, b)
        assert wave.scc == int(relation(x, y)), (a, b)
    for a, text in itertools.product(WORDS, ("-1", "0x7fff", "0xffff") if kind == "i32" else ("0xffff", "2")):
        wave.s[5] = a
        execute(wave, f"s_cmpk_{name}_{kind} s5, {text}")
        immediate = int(text, 0) & 0xFFFF
        x, y = (s(a), s(immediate, 16)) if kind == "i32" else (a, immediate)
        assert wave.scc == int(relation(x, y)), (a, text)


def test_compare_64() -> None:
    wave = fresh()
    wave.set64(4, 1 << 40)
    execute(wave, "s_cmp_lg_u64 s[4:5], 0")
    assert wave.scc == 1
    execute(wave, "s_cmp_eq_u64 s[4:5], 0")
    assert wave.scc == 0


def test_immediate_forms() -> None:
    wave = fresh()
    execute(wave, "s_movk_i32 s4, 0x8000", "s_movk_i32 s5, -5", "s_mov_b32 s6, 7", "s_mulk_i32 s6, -3")
    assert (wave.s[4], s(wave.s[5]), s(wave.s[6])) == (0xFFFF_8000, -5, -21)
    wave.s[7] = 0x7FFF_FFFF
    execute(wave, "s_addk_i32 s7, 1")
    assert (wave.s[7], wave.scc) == (0x8000_0000, 1)
    execute(wave, "s_cmovk_i32 s7, 3", "s_mov_b64 s[8:9], -1", "s_mov_b32 s10, 0.5")
    assert (wave.s[7], wave.get64(8), wave.s[10]) == (3, M64, 0x3F00_0000)


def test_select_and_bits() -> None:
    wave = fresh()
    wave.scc = 1
    execute(wave, "s_cselect_b32 s4, 11, 22", "s_cselect_b64 s[6:7], -1, 0")
    assert (wave.s[4], wave.get64(6)) == (11, M64)
    wave.s[8] = 0b1000
    execute(
        wave, "s_bitcmp1_b32 s8, 3", "s_cselect_b32 s9, 1, 0", "s_bitcmp0_b32 s8, 3", "s_bitset1_b32 s8, 5"
    )
    assert (wave.s[9], wave.scc, wave.s[8]) == (1, 0, 0b101000)
    execute(wave, "s_bitset0_b32 s8, 3", "s_cmov_b32 s9, 5")
    assert (wave.s[8], wave.s[9]) == (0b100000, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("and", 0x0F00),
        ("or", 0xFF0F),
        ("xor", 0xF00F),
        ("andn2", 0xF000),
        ("andn1", 0x000F),
        ("orn2", M64 ^ 0x000F),
    ],
)
def test_saveexec(name: str, expected: int) -> None:
    wave = fresh(0x0F0F)
    wave.set64(4, 0xFF00)
    execute(wave, f"s_{name}_saveexec_b64 s[4:5], s[4:5]")  # in place
    assert (wave.get64(4), wave.exec, wave.scc) == (0x0F0F, expected, 1)
    assert wave.mask.tolist() == [bool(expected >> i & 1) for i in range(64)]
    assert wave.full is False


def test_exec_halves_and_m0() -> None:
    wave = fresh()
    execute(
        wave,
        "s_mov_b32 exec_hi, 0",
        "s_mov_b32 m0, 0x1234",
        "s_and_b32 s4, exec_lo, 0xff",
        "s_mov_b32 s5, exec_hi",
    )
    assert (wave.exec, wave.s[M0], wave.s[4], wave.s[5]) == (0xFFFF_FFFF, 0x1234, 0xFF, 0)
    execute(wave, "s_mov_b64 exec, -1", "s_or_b64 exec, exec, s[4:5]", "s_not_b64 s[6:7], exec")
    assert wave.full
    assert (wave.get64(6), wave.get64(EXEC)) == (0, M64)


def test_whole_quad_mode_mask() -> None:
    wave = fresh()
    wave.set64(4, 0x8000_0000_0000_0002)
    execute(wave, "s_wqm_b64 s[6:7], s[4:5]")
    assert wave.get64(6) == 0xF000_0000_0000_000F


@pytest.mark.parametrize(
    "text",
    [
        "s_frob_b32 s0, s1",
        "s_add_u32 s0, s1",
        "s_add_u32 s[0:1], s1, s2",
        "s_mov_b64 s[0:1], 0x80000000",
        "s_add_u32 v0, s1, s2",
        "s_getreg_b32 s0, hwreg(HW_REG_HW_ID)",
        "s_memtime s[0:1]",
        "s_movk_i32 s0, 0x12345",
    ],
)
def test_not_emulated(text: str) -> None:
    with pytest.raises(NotEmulated, match="line 1"):
        execute(fresh(), text)
