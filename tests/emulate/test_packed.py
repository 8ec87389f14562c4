"""VOP3P: packed 16-bit and 32-bit operations, mixed precision."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulate.bench import EXECS, active, execute, fresh, get, put

OPERATIONS = {
    "v_pk_add_u16": (2, np.uint16, lambda a, b: a + b),
    "v_pk_sub_u16": (2, np.uint16, lambda a, b: a - b),
    "v_pk_mul_lo_u16": (2, np.uint16, lambda a, b: a * b),
    "v_pk_mad_u16": (3, np.uint16, lambda a, b, c: a * b + c),
    "v_pk_min_u16": (2, np.uint16, min),
    "v_pk_max_u16": (2, np.uint16, max),
    "v_pk_add_i16": (2, np.int16, lambda a, b: a + b),
    "v_pk_sub_i16": (2, np.int16, lambda a, b: a - b),
    "v_pk_mad_i16": (3, np.int16, lambda a, b, c: a * b + c),
    "v_pk_min_i16": (2, np.int16, min),
    "v_pk_max_i16": (2, np.int16, max),
    "v_pk_lshlrev_b16": (2, np.uint16, lambda a, b: b << (a & 15)),
    "v_pk_lshrrev_b16": (2, np.uint16, lambda a, b: b >> (a & 15)),
    "v_pk_ashrrev_i16": (2, np.int16, lambda a, b: b >> (a & 15)),
    "v_pk_add_f16": (2, np.float16, lambda a, b: a + b),
    "v_pk_mul_f16": (2, np.float16, lambda a, b: a * b),
    "v_pk_fma_f16": (3, np.float16, lambda a, b, c: a * b + c),
    "v_pk_min_f16": (2, np.float16, min),
    "v_pk_max_f16": (2, np.float16, max),
}


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("selection", [None, ([1, 0, 1], [0, 0, 1])], ids=["plain", "op_sel"])
@pytest.mark.parametrize("opcode", OPERATIONS)
def test_packed_16(opcode: str, selection: tuple | None, exec_name: str) -> None:
    count, dtype, reference = OPERATIONS[opcode]
    wave = fresh(EXECS[exec_name])
    rng = np.random.default_rng(1)
    halves = []
    for i in range(count):
        values = rng.integers(-20, 20, (64, 2)).astype(np.int16).astype(dtype)
        put(wave, 160 + i, values)
        halves.append(values)
    low, high = selection or ([0] * 3, [1] * 3)
    tail = f" op_sel:{low[:count]} op_sel_hi:{high[:count]}".replace(", ", ",") if selection else ""
    before = wave.v[160].copy()
    execute(wave, f"{opcode} v160, " + ", ".join(f"v{160 + i}" for i in range(count)) + tail)
    expected = np.zeros((64, 2), dtype)
    for lane in range(64):
        for part, chosen in enumerate((low, high)):
            inputs = [
                float(h[lane, c]) if dtype is np.float16 else int(h[lane, c])
                for h, c in zip(halves, chosen, strict=False)
            ]
            value = reference(*inputs)
            expected[lane, part] = (
                value if dtype is np.float16 else np.array(value & 0xFFFF, np.uint16).view(dtype)
            )
    raw = expected.view(np.uint32)[:, 0]
    np.testing.assert_array_equal(wave.v[160], np.where(active(EXECS[exec_name]), raw, before))


def test_packed_16_negation_and_constants() -> None:
    wave = fresh()
    put(wave, 1, np.tile(np.array([2.0, -3.0], np.float16), (64, 1)))
    execute(
        wave,
        "v_pk_add_f16 v2, v1, v1 neg_lo:[1,0] neg_hi:[0,1]",
        "v_pk_mul_f16 v3, v1, 0.5 op_sel_hi:[1,0]",
        "v_pk_add_u16 v4, v1, -1 op_sel_hi:[1,0]",
    )
    assert get(wave, 2, np.uint32)[0] == 0
    assert wave.v[3].view(np.float16)[:2].tolist() == [1.0, -1.5]
    assert wave.v[4].view(np.uint16)[:2].tolist() == [0x3FFF, 0xC1FF]


@pytest.mark.parametrize("exec_name", EXECS)
def test_packed_32(exec_name: str) -> None:
    wave = fresh(EXECS[exec_name])
    rng = np.random.default_rng(1)
    a, b, c = (rng.standard_normal((64, 2)).astype(np.float32) for _ in range(3))
    for row, value in ((10, a), (12, b), (14, c)):
        put(wave, row, value, 2)
    before = get(wave, 10, np.uint64, 2)
    execute(
        wave,
        "v_pk_fma_f32 v[10:11], v[10:11], v[12:13], v[14:15] op_sel:[0,1,0] op_sel_hi:[1,0,1] neg_lo:[0,0,1]",
    )
    low = (a[:, 0].astype(float) * b[:, 1] - c[:, 0]).astype(np.float32)
    high = (a[:, 1].astype(float) * b[:, 0] + c[:, 1]).astype(np.float32)
    expected = np.stack([low, high], 1).view(np.uint64)[:, 0]
    np.testing.assert_array_equal(
        get(wave, 10, np.uint64, 2), np.where(active(EXECS[exec_name]), expected, before)
    )


def test_packed_32_in_place_with_crossed_halves() -> None:
    """The low result must not be seen by the high one."""
    wave = fresh()
    a = np.random.default_rng(2).standard_normal((64, 2)).astype(np.float32)
    put(wave, 10, a, 2)
    execute(wave, "v_pk_add_f32 v[10:11], v[10:11], v[10:11] op_sel:[1,1] op_sel_hi:[0,0]")
    np.testing.assert_array_equal(get(wave, 10, np.float32), a[:, 1] * 2)
    np.testing.assert_array_equal(get(wave, 11, np.float32), a[:, 0] * 2)


def test_packed_32_reads_only_the_selected_register_of_a_scalar_pair() -> None:
    wave = fresh()
    put(wave, 10, np.ones((64, 2), np.float32), 2)
    wave.s[6] = int(np.float32(2.5).view(np.uint32))
    wave.undefined = wave.hazard = 1 << 512 + 7
    execute(
        wave,
        "v_pk_mul_f32 v[12:13], v[10:11], s[6:7] op_sel_hi:[1,0]",
        "v_pk_add_f32 v[14:15], v[12:13], 1.0 op_sel_hi:[1,0]",
    )
    assert get(wave, 14, np.float32)[3] == get(wave, 15, np.float32)[3] == 3.5


def test_packed_move() -> None:
    wave = fresh()
    before = wave.v.copy()
    execute(wave, "v_pk_mov_b32 v[2:3], v[2:3], v[4:5] op_sel:[1,0]")
    np.testing.assert_array_equal(wave.v[2], before[3])
    np.testing.assert_array_equal(wave.v[3], before[4])


def test_mixed_precision() -> None:
    wave = fresh(EXECS["partial"])
    put(wave, 1, np.tile(np.array([1.5, -2.0], np.float16), (64, 1)))
    put(wave, 2, np.full(64, 3.25, np.float32))
    old = wave.v[140].copy()
    execute(
        wave,
        "v_fma_mix_f32 v139, v1, v2, 1.0 op_sel:[1,0,0] op_sel_hi:[1,0,0]",
        "v_fma_mixlo_f16 v140, v1, v2, v2 op_sel_hi:[1,0,0]",
        "v_fma_mixhi_f16 v140, -v1, v2, v2 op_sel_hi:[1,0,0]",
    )
    on = active(EXECS["partial"])
    assert get(wave, 139, np.float32)[on][0] == -5.5
    expected = np.array([1.5 * 3.25 + 3.25, -1.5 * 3.25 + 3.25], np.float16).view(np.uint32)[0]
    np.testing.assert_array_equal(wave.v[140], np.where(on, expected, old))


def test_dot2_f32_f16_and_pack() -> None:
    wave = fresh()
    put(wave, 1, np.tile(np.array([1.5, -2.0], np.float16), (64, 1)))
    put(wave, 2, np.tile(np.array([4.0, 0.5], np.float16), (64, 1)))
    put(wave, 3, np.full(64, 10.0, np.float32))
    execute(
        wave,
        "v_dot2_f32_f16 v4, v1, v2, v3",
        "v_dot2c_f32_f16_e32 v3, v1, v2",
        "v_pack_b32_f16 v5, v1, v2 op_sel:[1,0,0]",
    )
    assert get(wave, 4, np.float32)[0] == get(wave, 3, np.float32)[0] == 15.0
    assert wave.v[5].view(np.float16)[:2].tolist() == [-2.0, 4.0]
