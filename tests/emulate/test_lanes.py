"""SDWA, DPP, carries, and what moves between lanes or between lanes and scalars."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import VCC
from tests.emulate.bench import EXECS, active, execute, fresh, get, put

LANE = np.arange(64)


def part(x: int, select: str, signed: bool = False) -> int:
    kind, _, index = select.partition("_")
    width = {"BYTE": 8, "WORD": 16, "DWORD": 32}[kind]
    value = x >> width * int(index or 0) & ((1 << width) - 1)
    return value - (1 << width) if signed and value >> (width - 1) else value


SELECTS = ["BYTE_0", "BYTE_1", "BYTE_2", "BYTE_3", "WORD_0", "WORD_1", "DWORD"]


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("sext", [False, True])
@pytest.mark.parametrize("select", SELECTS)
def test_sdwa_sources(select: str, sext: bool, exec_name: str) -> None:
    wave = fresh(EXECS[exec_name])
    before = wave.v.copy()
    first = "sext(v1)" if sext else "v1"
    execute(
        wave,
        f"v_add_u32_sdwa v200, {first}, v2 dst_sel:DWORD dst_unused:UNUSED_PAD "
        f"src0_sel:{select} src1_sel:BYTE_3",
    )
    expected = np.array(
        [part(a, select, sext) + (b >> 24) & 0xFFFFFFFF for a, b in zip(*before[1:3].tolist(), strict=True)],
        np.uint32,
    )
    np.testing.assert_array_equal(wave.v[200], np.where(active(EXECS[exec_name]), expected, before[200]))


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("unused", ["UNUSED_PAD", "UNUSED_SEXT", "UNUSED_PRESERVE"])
@pytest.mark.parametrize("select", SELECTS)
def test_sdwa_destination(select: str, unused: str, exec_name: str) -> None:
    """In place: the destination is a source too."""
    wave = fresh(EXECS[exec_name])
    before = wave.v.copy()
    execute(
        wave,
        f"v_xor_b32_sdwa v130, v130, v1 dst_sel:{select} dst_unused:{unused} src0_sel:DWORD src1_sel:DWORD",
    )
    kind, _, index = select.partition("_")
    width = {"BYTE": 8, "WORD": 16, "DWORD": 32}[kind]
    shift = width * int(index or 0)
    expected = []
    for a, b in zip(before[130].tolist(), before[1].tolist(), strict=True):
        field = (a ^ b) & ((1 << width) - 1)
        if unused == "UNUSED_SEXT" and field >> (width - 1):
            field -= 1 << width
        value = field << shift
        if unused == "UNUSED_PRESERVE":
            value |= a & ~(((1 << width) - 1) << shift)
        expected.append(value & 0xFFFFFFFF)
    np.testing.assert_array_equal(
        wave.v[130], np.where(active(EXECS[exec_name]), np.array(expected, np.uint32), before[130])
    )


def test_sdwa_half_floats_and_cndmask() -> None:
    wave = fresh()
    put(wave, 1, np.tile(np.array([1.5, -2.0], np.float16), 64).view(np.uint32))
    wave.set64(VCC, 0xFFFF_0000_FFFF_0000)
    execute(
        wave,
        "v_add_f16_sdwa v2, -v1, |v1| dst_sel:WORD_1 dst_unused:UNUSED_PAD src0_sel:WORD_0 src1_sel:WORD_1",
        "v_cndmask_b32_sdwa v3, v1, v1, vcc dst_sel:DWORD dst_unused:UNUSED_PAD "
        "src0_sel:DWORD src1_sel:WORD_1",
    )
    assert wave.v[2, 0] == int(np.float16(0.5).view(np.uint16)) << 16
    assert wave.v[3, 0] == wave.v[1, 0]
    assert wave.v[3, 16] == wave.v[1, 16] >> 16


def row(lane: int) -> int:
    return lane & ~15


# Control: (source lane of a lane, or None where there is none).
DPP = {
    "quad_perm:[3,0,2,2]": lambda i: (i & ~3) + [3, 0, 2, 2][i & 3],
    "row_shl:1": lambda i: i + 1 if i % 16 + 1 < 16 else None,
    "row_shl:15": lambda i: i + 15 if i % 16 + 15 < 16 else None,
    "row_shr:4": lambda i: i - 4 if i % 16 >= 4 else None,
    "row_ror:3": lambda i: row(i) + (i - 3) % 16,
    "row_mirror": lambda i: row(i) + 15 - i % 16,
    "row_half_mirror": lambda i: (i & ~7) + 7 - i % 8,
    "row_bcast:15": lambda i: row(i) - 1 if i >= 16 else None,
    "row_bcast:31": lambda i: 31 if i >= 32 else None,
    "row_newbcast:5": lambda i: row(i) + 5,
    "wave_shl:1": lambda i: i + 1 if i < 63 else None,
    "wave_shr:1": lambda i: i - 1 if i else None,
    "wave_rol:1": lambda i: (i + 1) % 64,
    "wave_ror:1": lambda i: (i - 1) % 64,
}


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize(
    "tail", ["", " bound_ctrl:1", " row_mask:0xa bank_mask:0x5"], ids=["keep", "zero", "masks"]
)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("control", DPP)
def test_dpp(control: str, in_place: bool, tail: str, exec_name: str) -> None:
    execution = EXECS[exec_name]
    wave = fresh(execution)
    target = 1 if in_place else 140
    before = wave.v.copy()
    mask = tail if "row_mask" in tail else f" row_mask:0xf bank_mask:0xf{tail}"
    execute(wave, f"v_add_u32_dpp v{target}, v1, v2 {control}{mask}")
    expected = before[target].copy()
    for i in range(64):
        source = DPP[control](i)
        readable = source is not None and execution >> source & 1
        if not execution >> i & 1:
            continue
        if "row_mask" in tail and not (0xA >> i // 16 & 1 and 0x5 >> i % 16 // 4 & 1):
            continue
        if readable:
            expected[i] = int(before[1, source]) + int(before[2, i]) & 0xFFFFFFFF
        elif "bound_ctrl" in tail:
            expected[i] = before[2, i]
    np.testing.assert_array_equal(wave.v[target], expected)


def test_dpp_wave_sum_as_compilers_write_it() -> None:
    wave = fresh()
    values = np.arange(64, dtype=np.uint32) * 3 + 1
    put(wave, 1, values)
    execute(
        wave,
        *(
            f"v_add_u32_dpp v1, v1, v1 row_shr:{n} row_mask:0xf bank_mask:0xf bound_ctrl:1"
            for n in (8, 4, 2, 1)
        ),
        "v_add_u32_dpp v1, v1, v1 row_bcast:15 row_mask:0xa bank_mask:0xf",
        "v_add_u32_dpp v1, v1, v1 row_bcast:31 row_mask:0xc bank_mask:0xf",
        "v_readlane_b32 s4, v1, 63",
    )
    assert wave.s[4] == values.sum()


def test_dpp_on_register_pairs() -> None:
    wave = fresh()
    a = get(wave, 2, np.uint64, 2)
    execute(wave, "v_mov_b64_dpp v[6:7], v[2:3] row_newbcast:9 row_mask:0xf bank_mask:0xf")
    np.testing.assert_array_equal(get(wave, 6, np.uint64, 2), a[(LANE & ~15) + 9])


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("name", ["add", "sub", "subrev", "addc", "subb", "subbrev"])
def test_carries(name: str, exec_name: str) -> None:
    execution = EXECS[exec_name]
    wave = fresh(execution)
    carry_in = 0x0F0F_5555_AAAA_00FF
    wave.set64(20, carry_in)
    old, b = wave.v[1].tolist(), wave.v[2].tolist()
    with_carry = name in {"addc", "subb", "subbrev"}
    execute(wave, f"v_{name}_co_u32_e64 v1, s[22:23], v1, v2" + (", s[20:21]" if with_carry else ""))
    expected, flags = list(old), 0
    for i, (x, y) in enumerate(zip(old, b, strict=True)):
        if not execution >> i & 1:
            continue
        if "rev" in name:
            x, y = y, x
        c = carry_in >> i & 1 if with_carry else 0
        total = x + y + c if name.startswith("add") else x - y - c
        expected[i] = total & 0xFFFFFFFF
        flags |= int(not 0 <= total < 1 << 32) << i
    assert wave.v[1].tolist() == expected
    assert wave.get64(22) == flags


def test_carry_chain_in_vcc_is_a_64_bit_add() -> None:
    wave = fresh()
    a, b = get(wave, 2, np.uint64, 2), get(wave, 4, np.uint64, 2)
    execute(wave, "v_add_co_u32_e32 v2, vcc, v2, v4", "v_addc_co_u32_e32 v3, vcc, v3, v5, vcc")
    np.testing.assert_array_equal(get(wave, 2, np.uint64, 2), a + b)


@pytest.mark.parametrize("signed", [False, True])
def test_mad_64(signed: bool) -> None:
    wave = fresh(EXECS["partial"])
    kind, narrow, wide = ("i64_i32", np.int32, np.int64) if signed else ("u64_u32", np.uint32, np.uint64)
    a, b, c = get(wave, 2, narrow), get(wave, 3, narrow), get(wave, 4, wide, 2)
    execute(wave, f"v_mad_{kind} v[4:5], s[10:11], v2, v3, v[4:5]")
    totals = [int(x) * int(y) + int(z) for x, y, z in zip(a, b, c, strict=True)]
    on = active(EXECS["partial"])
    got = get(wave, 4, np.uint64, 2)
    assert [int(v) for v in got[on]] == [t % (1 << 64) for t, o in zip(totals, on, strict=True) if o]
    np.testing.assert_array_equal(got[~on], c.view(np.uint64)[~on])
    low, high = (-(1 << 63), (1 << 63) - 1) if signed else (0, (1 << 64) - 1)
    expected = sum(
        int(not low <= t <= high) << i for i, (t, o) in enumerate(zip(totals, on, strict=True)) if o
    )
    assert wave.get64(10) == expected


@pytest.mark.parametrize(("execution", "lane"), [(EXECS["full"], 0), (0xF000, 12), (0, 0)])
def test_readfirstlane(execution: int, lane: int) -> None:
    wave = fresh(execution)
    execute(wave, "v_readfirstlane_b32 s9, v140")
    assert wave.s[9] == wave.v[140, lane]


def test_readlane_and_writelane_ignore_exec() -> None:
    wave = fresh(0)
    wave.s[3], wave.s[4] = 64 + 17, 0xABCD
    execute(wave, "v_readlane_b32 s9, v7, s3", "v_writelane_b32 v8, s4, 63", "v_readlane_b32 vcc_lo, v8, 63")
    assert wave.s[9] == wave.v[7, 17]
    assert wave.v[8, 63] == wave.s[VCC] == 0xABCD


def test_lane_number_by_mbcnt() -> None:
    wave = fresh()
    execute(wave, "v_mbcnt_lo_u32_b32 v1, -1, 0", "v_mbcnt_hi_u32_b32 v1, -1, v1")
    np.testing.assert_array_equal(wave.v[1], LANE)


def test_swap_touches_active_lanes_only() -> None:
    wave = fresh(EXECS["partial"])
    a, b = wave.v[1].copy(), wave.v[200].copy()
    execute(wave, "v_swap_b32 v1, v200")
    on = active(EXECS["partial"])
    np.testing.assert_array_equal(wave.v[1], np.where(on, b, a))
    np.testing.assert_array_equal(wave.v[200], np.where(on, a, b))


PERMUTATIONS = {
    "ds_swizzle_b32 v2, v1 offset:swizzle(SWAP,16)": lambda i: i ^ 16,
    "ds_swizzle_b32 v2, v1 offset:swizzle(REVERSE,8)": lambda i: i ^ 7,
    "ds_swizzle_b32 v2, v1 offset:swizzle(BROADCAST,4,2)": lambda i: (i & ~3) | 2,
    'ds_swizzle_b32 v2, v1 offset:swizzle(BITMASK_PERM,"01pip")': lambda i: (i & 32) | 8 | (i & 5) | (~i & 2),
    "ds_swizzle_b32 v2, v1 offset:swizzle(QUAD_PERM,1,0,3,2)": lambda i: i ^ 1,
    "ds_swizzle_b32 v2, v1 offset:0x401f": lambda i: i ^ 16,
    "ds_swizzle_b32 v2, v1 offset:0x80b1": lambda i: i ^ 1,
}


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("text", PERMUTATIONS)
def test_swizzle(text: str, exec_name: str) -> None:
    execution = EXECS[exec_name]
    wave = fresh(execution)
    before = wave.v.copy()
    execute(wave, text)
    expected = before[2].copy()
    for i in range(64):
        if execution >> i & 1:
            source = PERMUTATIONS[text](i)
            expected[i] = before[1, source] if execution >> source & 1 else 0
    np.testing.assert_array_equal(wave.v[2], expected)


@pytest.mark.parametrize("exec_name", EXECS)
def test_bpermute_pulls_and_permute_pushes(exec_name: str) -> None:
    execution = EXECS[exec_name]
    wave = fresh(execution)
    target = np.random.default_rng(3).integers(0, 64, 64)
    put(wave, 3, (target * 4 + 256).astype(np.uint32))
    before = wave.v.copy()
    execute(wave, "ds_bpermute_b32 v200, v3, v1 offset:8", "ds_permute_b32 v201, v3, v1")
    pulled, pushed = before[200].copy(), np.zeros(64, np.uint32)
    for i in range(64):
        source = (target[i] + 2) % 64
        if execution >> i & 1:
            pulled[i] = before[1, source] if execution >> int(source) & 1 else 0
            pushed[target[i]] = before[1, i]
    np.testing.assert_array_equal(wave.v[200], pulled)
    np.testing.assert_array_equal(wave.v[201], np.where(active(execution), pushed, before[201]))


@pytest.mark.parametrize(
    "text",
    [
        "v_add_u32_dpp v0, v1, v2 row_mask:0xf bank_mask:0xf",
        "v_add_u32_dpp v0, v1, v2 row_share:3 row_mask:0xf bank_mask:0xf",
        "v_add_u32_sdwa v0, v1, v2 dst_sel:BYTE_7 dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:DWORD",
        "v_permlane32_swap_b32 v0, v1",
        "ds_swizzle_b32 v2, v1 offset:0xe000",
    ],
)
def test_not_emulated(text: str) -> None:
    with pytest.raises(NotEmulated):
        execute(fresh(), text)
