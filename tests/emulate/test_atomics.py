"""Read-modify-write in global memory and LDS, with colliding and inactive lanes."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.emulate.atomic_ops import bf16_to_f32, f32_to_bf16
from autotune.emulate.errors import Fault, NotEmulated
from tests.emulate.bench import EXECS, active, execute, fresh, get, put

LANE = np.arange(64)
M32 = 0xFFFFFFFF


def s(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x


INTEGER = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "umin": min,
    "umax": max,
    "smin": lambda a, b: min(a, b, key=s),
    "smax": lambda a, b: max(a, b, key=s),
    "swap": lambda a, b: b,
    "inc": lambda a, b: 0 if a >= b else a + 1,
    "dec": lambda a, b: b if a == 0 or a > b else a - 1,
}


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("space", ["global", "flat", "buffer"])
@pytest.mark.parametrize("name", INTEGER)
def test_integer_atomics_in_lane_order(name: str, space: str, exec_name: str) -> None:
    wave = fresh(EXECS[exec_name])
    rng = np.random.default_rng(1)
    data = rng.integers(0, 1 << 32, 16, np.uint32)
    slot = rng.integers(0, 16, 64)  # collisions on purpose
    address = wave.memory.map(data)
    put(wave, 2, (address + 4 * slot).astype(np.uint64), 2)
    put(wave, 4, (4 * slot).astype(np.uint32))
    wave.s[12:16] = [address & M32, address >> 32, 64, 0x27000]
    values, before = wave.v[150].tolist(), wave.v.copy()
    expected, old = data.tolist(), before[151 if space != "buffer" else 150].tolist()
    for lane in LANE[active(EXECS[exec_name])].tolist():
        old[lane] = expected[slot[lane]]
        expected[slot[lane]] = INTEGER[name](old[lane], values[lane]) & M32
    form = {
        "global": "v151, v[2:3], v150, off",
        "flat": "v151, v[2:3], v150",
        "buffer": "v150, v4, s[12:15], 0 offen",
    }[space]
    execute(wave, f"{space}_atomic_{name} {form} sc0")
    assert data.tolist() == expected
    assert wave.v[150 if space == "buffer" else 151].tolist() == old


def test_without_sc0_nothing_comes_back() -> None:
    wave = fresh()
    data = np.zeros(1, np.uint32)
    put(wave, 2, np.full(64, wave.memory.map(data), np.uint64), 2)
    put(wave, 5, np.ones(64, np.uint32))
    before = wave.v.copy()
    execute(wave, "global_atomic_add v[2:3], v5, off sc1")
    assert data[0] == 64
    np.testing.assert_array_equal(wave.v, before)
    assert wave.memory.traffic["atomic"].nbytes == 256


def test_64_bit_and_compare_and_swap() -> None:
    wave = fresh(0b111)
    data = np.array([5], np.uint64)
    put(wave, 2, np.full(64, wave.memory.map(data), np.uint64), 2)
    put(wave, 6, np.full(64, 1 << 33, np.uint64), 2)
    execute(wave, "global_atomic_add_x2 v[8:9], v[2:3], v[6:7], off sc0")
    assert data[0] == 5 + 3 * (1 << 33)
    assert get(wave, 8, np.uint64, 2)[:3].tolist() == [5, 5 + (1 << 33), 5 + (2 << 33)]
    word = np.array([7], np.uint32)
    put(wave, 2, np.full(64, wave.memory.map(word), np.uint64), 2)
    put(wave, 6, np.tile(np.array([9, 7], np.uint32), (64, 1)), 2)  # new value, expected value
    execute(wave, "global_atomic_cmpswap v8, v[2:3], v[6:7], off sc0")
    assert word[0] == 9
    assert wave.v[8, :3].tolist() == [7, 9, 9]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("add_f32", np.float32), ("pk_add_f16", np.float16), ("pk_add_bf16", None), ("add_f64", np.float64)],
)
def test_float_atomics(name: str, dtype: type | None) -> None:
    wave = fresh(EXECS["partial"])
    rng = np.random.default_rng(2)
    words = 2 if dtype is np.float64 else 1
    numbers, start = (
        rng.standard_normal((64 if i == 0 else 8, 3 - words)).astype(np.float32) for i in range(2)
    )
    encode = f32_to_bf16 if dtype is None else (lambda x: x.astype(dtype))
    if dtype is np.float32:
        numbers, start = numbers[:, :1], start[:, :1]
    raw, data = encode(numbers), np.ascontiguousarray(encode(start))
    slot = LANE % 8
    address = wave.memory.map(data)
    put(wave, 2, (address + 4 * words * slot).astype(np.uint64), 2)
    put(wave, 6, np.ascontiguousarray(raw), words)
    expected = data.copy()
    for lane in LANE[active(EXECS["partial"])]:
        if dtype is None:
            expected[slot[lane]] = f32_to_bf16(bf16_to_f32(expected[slot[lane]]) + bf16_to_f32(raw[lane]))
        else:
            expected[slot[lane]] += raw[lane]
    source = f"v[6:{5 + words}]" if words > 1 else "v6"
    execute(wave, f"global_atomic_{name} v[2:3], {source}, off")
    np.testing.assert_array_equal(data, expected)


def test_bf16_rounding() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -3.4e38, np.inf, np.nan, 1e-40], np.float32)
    got = bf16_to_f32(f32_to_bf16(values))
    assert got[:3].tolist() == [1.0, 1.0, 1 + 2**-6]
    assert np.isinf(got[3:5]).all()
    assert np.isnan(got[5])
    assert 0 < got[6] < 1.1e-40


def test_buffer_atomics_out_of_range_are_dropped() -> None:
    wave = fresh()
    data = np.zeros(64, np.float16)
    address = wave.memory.map(data)
    wave.s[12:16] = [address & M32, address >> 32, 40, 0x27000]
    put(wave, 4, (4 * LANE).astype(np.uint32))
    put(wave, 5, np.ones((64, 2), np.float16))
    execute(wave, "buffer_atomic_pk_add_f16 v5, v4, s[12:15], 0 offen")
    assert data.tolist() == [1.0] * 20 + [0.0] * 44


def test_atomic_out_of_bounds() -> None:
    wave = fresh()
    put(wave, 2, np.full(64, wave.memory.map(np.zeros(1, np.uint32)) + 4, np.uint64), 2)
    with pytest.raises(Fault, match="outside"):
        execute(wave, "global_atomic_add v[2:3], v5, off")


@pytest.mark.parametrize("exec_name", EXECS)
def test_lds_atomics(exec_name: str) -> None:
    wave = fresh(EXECS[exec_name], lds_bytes=64)
    put(wave, 1, (4 * (LANE % 16)).astype(np.uint32))
    put(wave, 2, np.zeros(64, np.uint32))
    wave.set_exec(EXECS["full"])
    execute(wave, "ds_write_b32 v1, v2")
    wave.set_exec(EXECS[exec_name])
    put(wave, 3, LANE.astype(np.uint32))
    before = wave.v[4].copy()
    execute(wave, "ds_add_u32 v1, v3", "ds_add_rtn_u32 v4, v1, v3")
    on = active(EXECS[exec_name])
    once = np.array([sum(lane for lane in LANE[on] if lane % 16 == i) for i in range(16)])
    np.testing.assert_array_equal(wave.lds.data.view(np.uint32), 2 * once)
    running = once.copy()
    for lane in LANE:
        assert wave.v[4, lane] == (running[lane % 16] if on[lane] else before[lane])
        running[lane % 16] += lane if on[lane] else 0


def test_lds_float_and_minmax_atomics() -> None:
    wave = fresh(0b11, lds_bytes=8)
    put(wave, 1, np.zeros(64, np.uint32))
    put(wave, 2, np.full(64, 1.5, np.float32))
    put(wave, 3, np.array([3, -4] * 32, np.int32))
    execute(
        wave,
        "ds_write_b32 v1, v2",
        "ds_add_f32 v1, v2",
        "ds_write_b32 v1, v3 offset:4",
        "ds_min_i32 v1, v3 offset:4",
    )
    assert wave.lds.data.view(np.float32)[0] == 4.5
    assert wave.lds.data.view(np.int32)[1] == -4
    execute(wave, "ds_max_u32 v1, v3 offset:4", "ds_wrxchg_rtn_b32 v5, v1, v3 offset:4")
    assert wave.v[5, :2].view(np.int32).tolist() == [-4, 3]


@pytest.mark.parametrize(
    "text", ["global_atomic_fmin_f99 v[2:3], v5, off", "ds_cmpst_b32 v1, v2, v3", "ds_append v1"]
)
def test_not_emulated(text: str) -> None:
    with pytest.raises(NotEmulated):
        execute(fresh(), text)
