"""Outstanding loads: what an s_waitcnt covers, and what touches a register too early."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.emulate.errors import Fault, NotEmulated
from autotune.emulate.waits import LGKM_LIMIT, VM_LIMIT
from tests.emulate.bench import execute, fresh, put

LANE = np.arange(64)


@pytest.fixture
def wave():
    wave = fresh(lds_bytes=1024)
    data = np.arange(1024, dtype=np.uint32)
    address = wave.memory.map(data)
    put(wave, 2, (address + 4 * LANE).astype(np.uint64), 2)
    wave.set64(8, address)
    wave.lds.store(0, np.arange(0, 1024, 4), data[None, :256], 4)
    put(wave, 1, (4 * LANE).astype(np.uint32))
    return wave


LOAD = "global_load_dword v{}, v[2:3], off"
READ = "ds_read_b32 v{}, v1"
SCALAR = "s_load_dwordx2 s[{}:{}], s[8:9], 0x0"


@pytest.mark.parametrize("load", [LOAD.format(20), READ.format(20)])
@pytest.mark.parametrize(
    "use",
    [
        "v_mov_b32_e32 v5, v20",
        "v_mov_b32_e32 v20, 0",
        "global_store_dword v[2:3], v20, off",
        "v_mfma_f32_16x16x16_f16 v[24:27], v[20:21], v[28:29], 0",
    ],
)
def test_use_before_the_wait(wave, load: str, use: str) -> None:
    with pytest.raises(Fault, match=r"touches v20 before an s_waitcnt covers the load of line 1"):
        execute(wave, load, use)


def test_use_after_the_wait(wave) -> None:
    execute(
        wave, LOAD.format(20), READ.format(21), "s_waitcnt vmcnt(0) lgkmcnt(0)", "v_add_u32_e32 v5, v20, v21"
    )
    np.testing.assert_array_equal(wave.v[5], 2 * LANE)


def test_the_other_counter_does_not_cover(wave) -> None:
    with pytest.raises(Fault, match="v20"):
        execute(wave, LOAD.format(20), "s_waitcnt lgkmcnt(0)", "v_mov_b32_e32 v5, v20")


def test_vector_loads_return_in_order(wave) -> None:
    lines = [LOAD.format(20 + i) for i in range(4)] + ["s_waitcnt vmcnt(2)"]
    execute(wave, *lines, "v_add_u32_e32 v5, v20, v21")
    with pytest.raises(Fault, match="v22"):
        execute(wave, "v_mov_b32_e32 v5, v22")


def test_stores_count_in_vmcnt(wave) -> None:
    lines = [
        LOAD.format(20),
        "global_store_dword v[2:3], v6, off",
        "s_waitcnt vmcnt(1)",
        "v_mov_b32_e32 v5, v20",
    ]
    execute(wave, *lines)
    with pytest.raises(Fault, match="v20"):
        execute(wave, LOAD.format(20), "s_waitcnt vmcnt(1)", "v_mov_b32_e32 v5, v20")


def test_scalar_loads_need_lgkmcnt_zero(wave) -> None:
    execute(wave, SCALAR.format(20, 21), SCALAR.format(22, 23), "s_waitcnt lgkmcnt(1)")
    with pytest.raises(Fault, match="s20"):
        execute(wave, "s_mov_b32 s4, s20")
    execute(wave, "s_waitcnt lgkmcnt(0)", "s_mov_b32 s4, s22")


def test_scalar_loads_may_overtake_lds(wave) -> None:
    """With both outstanding, lgkmcnt(1) may mean that the scalar load is back and the LDS one is not."""
    execute(wave, READ.format(20), SCALAR.format(20, 21), "s_waitcnt lgkmcnt(1)")
    with pytest.raises(Fault, match="v20"):
        execute(wave, "v_mov_b32_e32 v5, v20")


def test_flat_needs_both_counters(wave) -> None:
    execute(wave, "flat_load_dword v20, v[2:3]", "s_waitcnt vmcnt(0)")
    with pytest.raises(Fault, match="v20"):
        execute(wave, "v_mov_b32_e32 v5, v20")
    execute(wave, "s_waitcnt lgkmcnt(0)", "v_mov_b32_e32 v5, v20")


def test_a_load_may_overwrite_an_older_load_of_its_kind_only(wave) -> None:
    execute(wave, LOAD.format(20), LOAD.format(20), "s_waitcnt vmcnt(0)")
    with pytest.raises(Fault, match="v20"):
        execute(wave, LOAD.format(20), READ.format(20))


def test_an_address_from_an_outstanding_load(wave) -> None:
    with pytest.raises(Fault, match="v1 "):
        execute(wave, "ds_read_b32 v1, v1", READ.format(5))


def test_atomics_and_permutes_are_tracked(wave) -> None:
    with pytest.raises(Fault, match="v5"):
        execute(wave, "global_atomic_add v5, v[2:3], v6, off sc0", "v_mov_b32_e32 v7, v5")
    with pytest.raises(Fault, match="v9"):
        execute(wave, "ds_bpermute_b32 v9, v1, v6", "v_mov_b32_e32 v7, v9")


@pytest.mark.parametrize(("line", "limit"), [(LOAD, VM_LIMIT), (READ, LGKM_LIMIT)])
def test_a_full_counter_stalls_the_issue(wave, line: str, limit: int) -> None:
    execute(wave, *(line.format(20 + i) for i in range(limit + 1)))
    execute(wave, "v_mov_b32_e32 v5, v20")
    with pytest.raises(Fault, match="v21"):
        execute(wave, "v_mov_b32_e32 v5, v21")


def test_encoded_wait(wave) -> None:
    execute(
        wave,
        LOAD.format(20),
        READ.format(21),
        "s_waitcnt 0x70",
        "v_mov_b32_e32 v5, v20",
        "v_mov_b32_e32 v5, v21",
    )
    execute(wave, LOAD.format(20), READ.format(21), "s_waitcnt 0xf70", "v_mov_b32_e32 v5, v20")
    with pytest.raises(Fault, match="v21"):
        execute(wave, "v_mov_b32_e32 v5, v21")


@pytest.mark.parametrize("text", ["v_mov_b32_e32 v5, v6", "s_mov_b32 s4, s6", "s_cselect_b64 s[4:5], vcc, 0"])
def test_read_of_an_undefined_register(wave, text: str) -> None:
    wave.undefined = wave.hazard = 1 << 6 | 1 << 512 + 6 | 1 << 512 + 107
    with pytest.raises(Fault, match=r"reads (v6|s6|vcc_hi), which nothing has written"):
        execute(wave, text)


def test_writing_defines(wave) -> None:
    wave.undefined = wave.hazard = 1 << 6
    execute(wave, "v_mov_b32_e32 v6, 0", "v_mov_b32_e32 v5, v6")


def test_not_emulated(wave) -> None:
    with pytest.raises(NotEmulated):
        execute(wave, "s_waitcnt vscnt(0)")
