"""LDS: every access width, bounds, undefined bytes, and races between waves."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.emulate.errors import Fault
from autotune.emulate.lds import Lds
from autotune.emulate.registers import LdsAccess, Outstanding, Wave
from tests.emulate.bench import EXECS, active, execute, fresh, put

LANE = np.arange(64)


def filled(execution: int, size: int = 4096):
    """A wave whose LDS is written all over; v1 of every lane points at its 16 bytes."""
    wave = fresh(execution, size)
    data = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    wave.lds.store(0, np.arange(0, size, 4), data.view(np.uint32)[None, :], 4)
    put(wave, 1, (16 * LANE).astype(np.uint32))
    return wave, data


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("offset", [0, 16, 3])
@pytest.mark.parametrize("bits", [32, 64, 96, 128])
def test_wide_reads_and_writes(bits: int, offset: int, exec_name: str) -> None:
    wave, data = filled(EXECS[exec_name])
    words = bits // 32
    before = wave.v.copy()
    target = f"v[200:{199 + words}]" if words > 1 else "v200"
    execute(wave, f"ds_read_b{bits} {target}, v1 offset:{offset}")
    on = active(EXECS[exec_name])
    for i in range(words):
        expected = np.array([data[16 * lane + offset + 4 * i :][:4].view(np.uint32)[0] for lane in LANE])
        np.testing.assert_array_equal(wave.v[200 + i], np.where(on, expected, before[200 + i]))
    source = f"v[130:{129 + words}]" if words > 1 else "v130"
    execute(wave, f"ds_write_b{bits} v1, {source} offset:{2048 + offset}")
    for lane in LANE[on]:
        data[2048 + 16 * lane + offset :][: 4 * words] = np.ascontiguousarray(
            before[130 : 130 + words, lane]
        ).view(np.uint8)
    np.testing.assert_array_equal(wave.lds.data, data)


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("st64", ["", "st64"])
@pytest.mark.parametrize("bits", [32, 64])
def test_pairs(bits: int, st64: str, exec_name: str) -> None:
    wave, data = filled(EXECS[exec_name], 8192)
    put(wave, 1, (8 * LANE).astype(np.uint32))
    size, unit = bits // 8, bits // 8 * (64 if st64 else 1)
    before = wave.v.copy()
    words = size // 4
    execute(wave, f"ds_read2{st64}_b{bits} v[140:{139 + 2 * words}], v1 offset0:1 offset1:6")
    on = active(EXECS[exec_name])
    for half, offset in enumerate((1, 6)):
        for i in range(words):
            expected = np.array(
                [data[8 * lane + offset * unit + 4 * i :][:4].view(np.uint32)[0] for lane in LANE]
            )
            row = 140 + half * words + i
            np.testing.assert_array_equal(wave.v[row], np.where(on, expected, before[row]))
    a, b = ("v[150:151]", "v[160:161]") if words == 2 else ("v150", "v160")
    execute(wave, f"ds_write2{st64}_b{bits} v1, {a}, {b} offset1:9")
    # First both halves of lane order do not matter: offset 0, then offset 9 of every lane.
    for row, offset in ((150, 0), (160, 9)):
        for lane in LANE[on]:
            at = 8 * lane + offset * unit
            data[at : at + size] = np.ascontiguousarray(before[row : row + words, lane]).view(np.uint8)
    np.testing.assert_array_equal(wave.lds.data, data)


NARROW = {
    "u8": (1, lambda x: x),
    "i8": (1, lambda x: x - 256 * (x >> 7)),
    "u16": (2, lambda x: x),
    "i16": (2, lambda x: x - 65536 * (x >> 15)),
}


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("name", NARROW)
def test_narrow_reads_and_writes(name: str, exec_name: str) -> None:
    size, convert = NARROW[name]
    wave, data = filled(EXECS[exec_name])
    before = wave.v.copy()
    execute(wave, f"ds_read_{name} v200, v1 offset:5", f"ds_write_b{8 * size} v1, v130 offset:7")
    on = active(EXECS[exec_name])
    raw = [int.from_bytes(data[16 * lane + 5 :][:size].tobytes(), "little") for lane in LANE]
    expected = np.array([convert(x) & 0xFFFFFFFF for x in raw], np.uint32)
    np.testing.assert_array_equal(wave.v[200], np.where(on, expected, before[200]))
    for lane in LANE[on]:
        data[16 * lane + 7 :][:size] = np.ascontiguousarray(before[130, lane : lane + 1]).view(np.uint8)[
            :size
        ]
    np.testing.assert_array_equal(wave.lds.data, data)


def test_d16_forms() -> None:
    wave, data = filled(EXECS["full"])
    put(wave, 5, np.full(64, 0x11112222, np.uint32))
    put(wave, 6, np.full(64, 0x11112222, np.uint32))
    execute(
        wave, "ds_read_u16_d16 v5, v1", "ds_read_u8_d16_hi v6, v1", "ds_write_b16_d16_hi v1, v130 offset:2"
    )
    assert wave.v[5, 2] == 0x11110000 | int(data[32:34].view(np.uint16)[0])
    assert wave.v[6, 2] == 0x2222 | int(data[32]) << 16
    assert wave.lds.data[34:36].view(np.uint16)[0] == wave.v[130, 2] >> 16


@pytest.mark.parametrize(
    "text", ["ds_read_b32 v2, v1 offset:4", "ds_write_b128 v1, v[4:7]", "ds_write_b8 v1, v2 offset:64"]
)
def test_access_past_the_allocation(text: str) -> None:
    wave = fresh(1, 64)
    put(wave, 1, np.full(64, 60 if "b8" not in text else 0, np.uint32))
    with pytest.raises(Fault, match="allocated are 64"):
        execute(wave, text)


def test_read_of_what_nothing_has_written() -> None:
    wave = fresh(1, 64)
    put(wave, 1, np.zeros(64, np.uint32))
    execute(wave, "ds_write_b16 v1, v2")
    with pytest.raises(Fault, match="LDS read of byte 2, which nothing has written"):
        execute(wave, "ds_read_b32 v3, v1")


def at(start: int) -> np.ndarray:
    return np.array([start])


def words(value: int) -> np.ndarray:
    return np.array([[value]], np.uint32)


@pytest.fixture
def lds() -> Lds:
    memory = Lds(64)
    memory.store(0, np.arange(0, 64, 4), np.zeros((1, 16), np.uint32), 4)
    memory.barrier([])
    return memory


def test_race_write_then_read(lds: Lds) -> None:
    lds.store(1, at(8), words(5), 4)
    assert lds.load(1, at(8), 4)[0, 0] == 5  # its own
    with pytest.raises(Fault, match="wave 0 reads byte 8 that wave 1 wrote"):
        lds.load(0, at(8), 4)


def test_race_read_then_write(lds: Lds) -> None:
    lds.load(2, at(8), 8)
    lds.load(0, at(8), 4)
    lds.store(2, at(16), words(1), 4)
    with pytest.raises(Fault, match="wave 0 overwrites byte 12 that wave 2 reads"):
        lds.store(0, at(12), words(7), 4)


def test_race_of_two_writes_unless_the_value_is_the_same(lds: Lds) -> None:
    lds.store(1, at(8), words(5), 4)
    lds.store(0, at(8), words(5), 4)
    with pytest.raises(Fault, match="wave 1 and wave 0 write byte 8"):
        lds.store(1, at(8), words(6), 4)


@pytest.mark.parametrize("size", [1, 2])
def test_narrow_races(lds: Lds, size: int) -> None:
    lds.store(1, at(8), words(5), size)
    lds.store(0, at(8 + size), words(5), size)  # a neighbour in the same word
    with pytest.raises(Fault, match="race"):
        lds.load(0, at(8), 4)


def test_a_barrier_orders_everything(lds: Lds) -> None:
    lds.store(1, at(8), words(5), 4)
    lds.barrier([])
    lds.load(0, at(8), 4)
    lds.barrier([])
    lds.store(1, at(8), words(6), 4)


@pytest.mark.parametrize("write", [True, False])
def test_what_is_outstanding_at_a_barrier_is_not_ordered_by_it(lds: Lds, write: bool) -> None:
    wave = Wave(1)
    wave.index = 1
    wave.lgkm.append(Outstanding(0, 0, 3, True, LdsAccess(at(8), 4, write)))
    lds.barrier([wave])
    with pytest.raises(Fault, match="race"):
        lds.store(0, at(8), words(9), 4) if not write else lds.load(0, at(8), 4)


def test_atomics_race_with_plain_accesses_only(lds: Lds) -> None:
    lds.atomic_access(0, at(8), 4)
    lds.atomic_access(1, at(8), 4)
    with pytest.raises(Fault, match="an atomic wrote"):
        lds.load(1, at(8), 4)
    lds.barrier([])
    lds.load(0, at(8), 4)
    with pytest.raises(Fault, match="LDS atomic races"):
        lds.atomic_access(1, at(8), 4)


def test_races_can_be_left_alone() -> None:
    memory = Lds(8, check_races=False)
    memory.store(0, at(0), words(1), 4)
    memory.store(1, at(0), words(2), 4)
    assert memory.load(2, at(0), 4)[0, 0] == 2
