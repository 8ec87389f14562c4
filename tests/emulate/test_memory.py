"""Global, flat, buffer and scratch accesses, scalar loads, bounds and traffic statistics."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.emulate.errors import Fault, NotEmulated
from autotune.emulate.memory import Memory
from tests.emulate.bench import EXECS, active, execute, fresh, get, put

LANE = np.arange(64)
# Opcode: bytes, and what 32-bit register value a little-endian field of those bytes becomes.
LOADS = {
    "ubyte": (1, lambda x: x),
    "sbyte": (1, lambda x: x - 256 * (x >> 7)),
    "ushort": (2, lambda x: x),
    "sshort": (2, lambda x: x - 65536 * (x >> 15)),
}


def world(execution: int, size: int = 4096, offset: int = 0):
    """A wave, random bytes mapped at an address that v[2:3] of every lane points to (lane stride 16)."""
    wave = fresh(execution)
    data = np.random.default_rng(9).integers(0, 256, size, np.uint8)
    address = wave.memory.map(data, name="data")
    put(wave, 2, (address + offset + 16 * LANE).astype(np.uint64), 2)
    wave.set64(8, address + offset)
    put(wave, 4, (16 * LANE).astype(np.uint32))
    wave.s[12:16] = [address & 0xFFFFFFFF, address >> 32, size, 0x27000]
    return wave, data


FORMS = {
    "global": ("v[2:3], off", ""),
    "global saddr": ("v4, s[8:9]", ""),
    "flat": ("v[2:3]", ""),
    "buffer": ("v4, s[12:15], 0", " offen"),
    "buffer soffset": ("v4, s[12:15], s16", " offen"),
}


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("words", [1, 2, 3, 4])
@pytest.mark.parametrize("offset", [0, 8, 5])
def test_word_loads(form: str, words: int, offset: int, exec_name: str) -> None:
    wave, data = world(EXECS[exec_name])
    wave.s[16] = 32
    before = wave.v.copy()
    width = "dword" if words == 1 else f"dwordx{words}"
    target = "v130" if words == 1 else f"v[130:{129 + words}]"
    address, tail = FORMS[form]
    execute(wave, f"{form.split()[0]}_load_{width} {target}, {address}{tail} offset:{offset} sc0 nt")
    shift = offset + (32 if "soffset" in form else 0)
    for i in range(words):
        expected = np.array([data[16 * lane + shift + 4 * i :][:4].view(np.uint32)[0] for lane in LANE])
        np.testing.assert_array_equal(
            wave.v[130 + i], np.where(active(EXECS[exec_name]), expected, before[130 + i])
        )


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LOADS)
def test_narrow_loads(form: str, name: str, exec_name: str) -> None:
    size, convert = LOADS[name]
    wave, data = world(EXECS[exec_name])
    wave.s[16] = 1
    before = wave.v[200].copy()
    address, tail = FORMS[form]
    execute(wave, f"{form.split()[0]}_load_{name} v200, {address}{tail} offset:3")
    start = 16 * LANE + 3 + (1 if "soffset" in form else 0)
    raw = [int.from_bytes(data[s : s + size].tobytes(), "little") for s in start]
    expected = np.array([convert(x) & 0xFFFFFFFF for x in raw], np.uint32)
    np.testing.assert_array_equal(wave.v[200], np.where(active(EXECS[exec_name]), expected, before))


@pytest.mark.parametrize(
    ("name", "mask"), [("short_d16", 0xFFFF0000), ("short_d16_hi", 0xFFFF), ("ubyte_d16_hi", 0xFFFF)]
)
def test_d16_loads_keep_the_other_half(name: str, mask: int) -> None:
    wave, data = world(EXECS["partial"])
    before = wave.v[7].copy()
    execute(wave, f"global_load_{name} v7, v[2:3], off")
    field = np.array(
        [int.from_bytes(data[16 * lane :][: 1 if "byte" in name else 2].tobytes(), "little") for lane in LANE]
    )
    expected = before & np.uint32(mask) | (field << (0 if mask > 0xFFFF else 16)).astype(np.uint32)
    np.testing.assert_array_equal(wave.v[7], np.where(active(EXECS["partial"]), expected, before))


@pytest.mark.parametrize("exec_name", EXECS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("width", "size"),
    [
        ("byte", 1),
        ("byte_d16_hi", 1),
        ("short", 2),
        ("short_d16_hi", 2),
        ("dword", 4),
        ("dwordx2", 8),
        ("dwordx3", 12),
        ("dwordx4", 16),
    ],
)
def test_stores(form: str, width: str, size: int, exec_name: str) -> None:
    wave, data = world(EXECS[exec_name])
    wave.s[16] = 0
    words = (size + 3) // 4
    address, tail = FORMS[form]
    source = "v140" if words == 1 else f"v[140:{139 + words}]"
    text = (
        f"{source}, {address}"
        if form.startswith("buffer")
        else ", ".join([address.split(", ")[0], source, *address.split(", ")[1:]])
    )
    expected = data.copy()
    raw = np.ascontiguousarray(wave.v[140 : 140 + words].T).view(np.uint8)
    if "hi" in width:
        raw = raw[:, 2:]
    for lane in LANE[active(EXECS[exec_name])]:
        expected[16 * lane + 4 : 16 * lane + 4 + size] = raw[lane, :size]
    execute(wave, f"{form.split()[0]}_store_{width} {text}{tail} offset:4")
    np.testing.assert_array_equal(data, expected)


def test_accvgprs_as_data() -> None:
    wave, data = world(EXECS["full"])
    execute(
        wave,
        "global_load_dwordx2 a[0:1], v[2:3], off",
        "s_waitcnt vmcnt(0)",
        "global_store_dwordx2 v[2:3], a[0:1], off offset:8",
    )
    np.testing.assert_array_equal(data[:1024].reshape(64, 16)[:, :8], data[:1024].reshape(64, 16)[:, 8:])


def test_negative_offset_and_wrapping_scalar_base() -> None:
    wave, data = world(EXECS["full"], offset=64)
    execute(wave, "global_load_dword v9, v4, s[8:9] offset:-64")
    assert wave.v[9, 1] == data[16:20].view(np.uint32)[0]


def test_buffer_loads_out_of_range_give_zero_and_stores_are_dropped() -> None:
    wave, data = world(EXECS["full"])
    wave.s[14] = 40  # records: lanes 0 and 1 whole, of lane 2 only the first two words
    before = data.copy()
    execute(wave, "buffer_load_dwordx4 v[20:23], v4, s[12:15], 0 offen", "s_waitcnt vmcnt(0)")
    assert wave.v[20:24, 1].tolist() == data[16:32].view(np.uint32).tolist()
    assert wave.v[20:24, 2].tolist() == [*data[32:40].view(np.uint32).tolist(), 0, 0]
    assert not wave.v[20:24, 3:].any()
    put(wave, 20, np.arange(256, dtype=np.uint32).reshape(64, 4), 4)
    execute(wave, "buffer_store_dwordx4 v[20:23], v4, s[12:15], 0 offen")
    np.testing.assert_array_equal(data[:40].view(np.uint32), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    np.testing.assert_array_equal(data[40:], before[40:])


@pytest.mark.parametrize("width", ["ubyte", "ushort"])
def test_narrow_buffer_loads_are_checked_too(width: str) -> None:
    wave, _ = world(EXECS["full"])
    wave.s[14] = 16
    execute(wave, f"buffer_load_{width} v20, v4, s[12:15], 0 offen")
    assert not wave.v[20, 1:].any()


def test_scalar_offset_counts_in_the_range_check() -> None:
    wave, _ = world(EXECS["full"])
    wave.s[14], wave.s[16] = 64, 48
    execute(wave, "buffer_load_dword v20, v4, s[12:15], s16 offen")
    assert wave.v[20, 0]
    assert not wave.v[20, 1:].any()


def test_offset_minus_one_masks_a_lane_as_triton_does() -> None:
    wave, data = world(EXECS["full"])
    wave.s[14] = 0x7FFFFFFE
    put(wave, 4, np.where(LANE < 3, 4 * LANE, 0x8000_0000).astype(np.uint32))
    execute(wave, "buffer_load_dword v20, v4, s[12:15], 0 offen")
    assert wave.v[20, :3].tolist() == data[:12].view(np.uint32).tolist()
    assert not wave.v[20, 3:].any()


def test_inside_the_descriptor_but_outside_of_the_buffer_is_a_fault() -> None:
    wave, _ = world(EXECS["full"])
    wave.s[14] = 0x7FFFFFFE
    put(wave, 4, np.full(64, 5000, np.uint32))
    with pytest.raises(Fault, match="data has 4096 bytes"):
        execute(wave, "buffer_load_dword v20, v4, s[12:15], 0 offen")


def test_descriptor_with_stride_is_a_fault() -> None:
    wave, _ = world(EXECS["full"])
    wave.s[13] |= 16 << 16
    with pytest.raises(Fault, match="stride 16"):
        execute(wave, "buffer_load_dword v20, v4, s[12:15], 0 offen")


@pytest.mark.parametrize(
    "text", ["global_load_dwordx4 v[20:23], v[2:3], off", "global_store_dwordx4 v[2:3], v[20:23], off"]
)
@pytest.mark.parametrize("size", [1023, 1020, 1008])
def test_one_byte_past_the_end_is_a_fault(text: str, size: int) -> None:
    wave, _ = world(EXECS["full"], size=size)
    with pytest.raises(Fault, match="outside of every buffer"):
        execute(wave, text)


def test_inactive_lanes_may_point_anywhere() -> None:
    wave, data = world(0xFF)
    put(wave, 2, np.where(LANE < 8, get(wave, 2, np.uint64, 2), 12345).astype(np.uint64), 2)
    execute(
        wave,
        "global_load_dword v20, v[2:3], off",
        "s_waitcnt vmcnt(0)",
        "global_store_dword v[2:3], v20, off offset:4",
    )
    assert data[4:8].tolist() == data[:4].tolist()


def test_lanes_in_two_buffers() -> None:
    wave, _ = world(EXECS["full"])
    other = np.arange(64, dtype=np.uint32)
    where = wave.memory.map(other, name="other")
    first = get(wave, 2, np.uint64, 2)
    put(wave, 2, np.where(LANE % 2, where + 4 * LANE, first).astype(np.uint64), 2)
    execute(wave, "global_load_dword v20, v[2:3], off")
    np.testing.assert_array_equal(wave.v[20, 1::2], other[1::2])


def test_read_only_buffer() -> None:
    wave = fresh()
    array = np.zeros(64, np.uint32)
    array.flags.writeable = False
    address = wave.memory.map(array, name="weights")
    put(wave, 2, (address + 4 * LANE).astype(np.uint64), 2)
    execute(wave, "global_load_dword v20, v[2:3], off", "s_waitcnt vmcnt(0)")
    with pytest.raises(Fault, match="read-only buffer weights"):
        execute(wave, "global_store_dword v[2:3], v20, off")


def test_null_pointer() -> None:
    wave = fresh()
    put(wave, 2, np.zeros(64, np.uint64), 2)
    with pytest.raises(Fault, match="0x0"):
        execute(wave, "global_load_dword v20, v[2:3], off")


def test_traffic_counts_bytes_and_64_byte_segments() -> None:
    wave, _ = world(EXECS["full"])
    put(wave, 4, (4 * LANE).astype(np.uint32))
    execute(wave, "global_load_dword v20, v4, s[8:9]")
    put(wave, 4, (64 * (LANE % 32) + 60).astype(np.uint32))
    execute(wave, "global_load_dwordx2 v[20:21], v4, s[8:9]")
    load = wave.memory.traffic["load"]
    assert (load.instructions, load.nbytes, load.segments) == (2, 64 * 4 + 64 * 8, 4 + 33)


@pytest.mark.parametrize("exec_name", EXECS)
def test_scratch_is_private_to_a_lane(exec_name: str) -> None:
    wave = fresh(EXECS[exec_name])
    wave.scratch = np.zeros((64, 64), np.uint8)
    wave.s[32] = 16
    put(wave, 1, (LANE % 2 * 4).astype(np.uint32))
    before = wave.v.copy()
    execute(
        wave,
        "scratch_store_dwordx2 off, v[20:21], s32 offset:8",
        "scratch_load_dword v30, off, s32 offset:12",
        "scratch_load_dword v31, v1, off offset:24",
        "scratch_load_ushort v32, v1, s32 offset:8",
    )
    on = active(EXECS[exec_name])
    np.testing.assert_array_equal(wave.v[30], np.where(on, before[21], before[30]))
    np.testing.assert_array_equal(
        wave.v[31], np.where(on, np.where(LANE % 2, before[21], before[20]), before[31])
    )
    np.testing.assert_array_equal(wave.v[32][on], wave.v[31][on] & 0xFFFF)


def test_scratch_bounds() -> None:
    wave = fresh()
    wave.scratch = np.zeros((16, 64), np.uint8)
    execute(wave, "scratch_store_dword off, v1, off offset:12")
    with pytest.raises(Fault, match="scratch access at 16 outside of 16"):
        execute(wave, "scratch_store_dword off, v1, off offset:16")


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_scalar_loads(count: int) -> None:
    wave, data = world(EXECS["full"])
    wave.s[3] = 20
    suffix = f"x{count}" if count > 1 else ""
    target = f"s[24:{23 + count}]" if count > 1 else "s24"
    words = data.view(np.uint32)
    execute(wave, f"s_load_dword{suffix} {target}, s[8:9], 0x8")
    assert wave.s[24 : 24 + count] == words[2 : 2 + count].tolist()
    execute(wave, "s_waitcnt lgkmcnt(0)", f"s_load_dword{suffix} {target}, s[8:9], s3 offset:0x4")
    assert wave.s[24 : 24 + count] == words[6 : 6 + count].tolist()


def test_scalar_buffer_load_past_the_end_gives_zero() -> None:
    wave, data = world(EXECS["full"])
    wave.s[14] = 12
    execute(wave, "s_buffer_load_dwordx4 s[24:27], s[12:15], 0x4")
    assert wave.s[24:28] == [*data[4:12].view(np.uint32).tolist(), 0, 0]


def test_scalar_load_out_of_bounds() -> None:
    wave, _ = world(EXECS["full"], size=64)
    with pytest.raises(Fault, match="outside"):
        execute(wave, "s_load_dwordx4 s[24:27], s[8:9], 0x38")


def test_load_straight_into_lds() -> None:
    wave, data = world(EXECS["partial"])
    from autotune.emulate.lds import Lds
    from autotune.emulate.parser import M0

    wave.lds = Lds(1024)
    wave.s[M0] = 0x40
    execute(wave, "buffer_load_dword v4, s[12:15], 0 offen lds")
    on = active(EXECS["partial"])
    stored = wave.lds.data.view(np.uint32)[16:80]
    np.testing.assert_array_equal(stored[on], data.view(np.uint32)[::4][:64][on])
    assert not stored[~on].any()


def test_mapping_refuses_overlap_and_strides() -> None:
    memory = Memory()
    address = memory.map(np.zeros(64, np.uint8))
    with pytest.raises(ValueError, match="overlaps"):
        memory.map(np.zeros(64, np.uint8), address=address + 63)
    with pytest.raises(ValueError, match="contiguous"):
        memory.map(np.zeros((8, 8), np.uint8)[:, ::2])
    memory.map(np.zeros(64, np.uint8), address=address + 64)


@pytest.mark.parametrize(
    "text",
    [
        "buffer_load_dword v20, v4, s[12:15], 0 idxen",
        "buffer_load_dword v20, v4, s[12:15], 0",
        "buffer_load_format_x v20, v4, s[12:15], 0 offen",
        "global_load_dwordx2 v20, v[2:3], off",
        "global_load_dword v20, v[2:3], off tfe",
        "global_load_dword v20, v[2:3]",
        "s_load_dwordx3 s[24:26], s[8:9], 0x0",
        "s_store_dword s24, s[8:9], 0x0",
    ],
)
def test_not_emulated(text: str) -> None:
    wave, _ = world(EXECS["full"])
    with pytest.raises(NotEmulated):
        execute(wave, text)
