"""A spill may save registers that were never written; using what comes back shows."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.emulate import Fault, Kernel
from tests.emulate.asm import STORE, kernel


def spilling(body: str) -> Kernel:
    return Kernel.from_asm(
        kernel(body + STORE).replace("private_segment_fixed_size: 0", "private_segment_fixed_size: 16")
    )


SPILL = """
    v_mov_b32_e32 v4, 7
    scratch_store_dwordx2 off, v[4:5], off offset:8
    s_waitcnt vmcnt(0)
    scratch_load_dwordx2 v[6:7], off, off offset:8
    s_waitcnt vmcnt(0)
"""


def test_a_tuple_of_which_one_half_was_written_can_be_spilled() -> None:
    out = np.zeros(64, np.uint32)
    spilling(SPILL + "    v_mov_b32_e32 v1, v6").launch([out])
    assert (out == 7).all()


def test_the_other_half_comes_back_as_poison() -> None:
    made = []
    for seed in (1, 2):
        out = np.zeros(64, np.uint32)
        spilling(SPILL + "    v_mov_b32_e32 v1, v7").launch([out], seed=seed)
        made.append(out)
    assert (made[0] != made[1]).any()


def test_a_scalar_that_was_never_written_can_be_spilled() -> None:
    out = np.zeros(64, np.uint32)
    body = "    v_mov_b32_e32 v1, 7\n    v_writelane_b32 v5, s42, 3"
    Kernel.from_asm(kernel(body + STORE)).launch([out])
    assert (out == 7).all()


def test_a_load_under_way_is_not_spilled() -> None:
    body = """
    s_load_dwordx2 s[4:5], s[0:1], 0x0
    s_waitcnt lgkmcnt(0)
    v_mov_b32_e32 v3, 0
    global_load_dwordx2 v[4:5], v3, s[4:5]
    scratch_store_dwordx2 off, v[4:5], off offset:8
    """
    with pytest.raises(Fault, match="touches v4"):
        spilling(body).launch([np.zeros(64, np.uint32)])
