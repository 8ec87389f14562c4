"""Whole kernels: control flow, barriers, workgroups, arguments, faults with their line, counts."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.emulate.errors import Fault, NotEmulated
from autotune.emulate.launch import Kernel, Pointer
from autotune.emulate.memory import Memory
from tests.emulate.asm import STORE, kernel

ORDERS = ["forward", "reverse", "shuffled"]


def run(
    body: str,
    size: int = 64,
    grid=(1, 1, 1),
    arguments=(),
    numbers: int = 0,
    threads: int = 64,
    lds: int = 0,
    **options,
):
    out = np.zeros(size, np.uint32)
    text = kernel(body, threads=threads, lds=lds, numbers=numbers)
    result = Kernel.from_asm(text).launch([out, *arguments], grid, **options)
    return out, result


def test_work_items_and_workgroup_ids() -> None:
    body = "    s_lshl_b32 s8, s2, 4\n    s_or_b32 s8, s8, s3\n    v_or_b32_e32 v1, s8, v0\n" + STORE
    out, result = run(body, grid=(3, 2, 1), workgroups=[(2, 1, 0)])
    np.testing.assert_array_equal(out, np.arange(64) | 0x21)
    assert result.counts.workgroups == 1


def test_all_workgroups_run_by_default_x_first() -> None:
    body = """
    s_load_dwordx2 s[6:7], s[0:1], 0x0
    v_mov_b32_e32 v2, 0
    v_mov_b32_e32 v3, 1
    s_waitcnt lgkmcnt(0)
    s_mov_b64 exec, 1
    global_atomic_add v4, v2, v3, s[6:7] sc0
    s_lshl_b32 s8, s2, 2
    s_lshl_b32 s9, s3, 3
    s_add_u32 s8, s8, s9
    v_mov_b32_e32 v5, s8
    s_waitcnt vmcnt(0)
    global_store_dword v5, v4, s[6:7] offset:4
    """
    out, _ = run(body, size=8, grid=(2, 2, 1))
    assert out.tolist() == [4, 0, 1, 2, 3, 0, 0, 0]


@pytest.mark.parametrize("threads", [1, 64, 100, 256])
def test_partial_last_wave(threads: int) -> None:
    out, _ = run("    v_mov_b32_e32 v1, 7\n" + STORE, size=256, threads=threads)
    np.testing.assert_array_equal(out, np.where(np.arange(256) < threads, 7, 0))


def test_three_dimensional_workgroups_pack_their_ids() -> None:
    body = """
    v_mov_b32_e32 v1, v0
    v_bfe_u32 v2, v0, 0, 10
    v_bfe_u32 v3, v0, 10, 10
    v_bfe_u32 v4, v0, 20, 10
    v_lshl_add_u32 v2, v3, 2, v2
    v_lshl_add_u32 v0, v4, 3, v2
    """
    out = np.zeros(16, np.uint32)
    Kernel.from_asm(kernel(body + STORE)).launch([out], threads=(4, 2, 2))
    assert out.tolist() == [x | y << 10 | z << 20 for z in range(2) for y in range(2) for x in range(4)]


def test_loop_and_branches() -> None:
    body = """
    s_mov_b32 s8, 0
    v_mov_b32_e32 v1, 0
.Lloop:
    v_add_u32_e32 v1, s8, v1
    s_add_i32 s8, s8, 1
    s_cmp_lt_i32 s8, 10
    s_cbranch_scc1 .Lloop
    v_cmp_gt_u32_e32 vcc, 32, v0
    s_and_saveexec_b64 s[10:11], vcc
    s_cbranch_execz .Lskip
    v_add_u32_e32 v1, 100, v1
.Lskip:
    s_or_b64 exec, exec, s[10:11]
    s_mov_b64 vcc, 0
    s_cbranch_vccnz .Lnever
    s_branch .Lend
.Lnever:
    s_trap 2
.Lend:
    """
    out, result = run(body + STORE)
    np.testing.assert_array_equal(out, np.where(np.arange(64) < 32, 145, 45))
    assert result.counts.opcodes["s_cmp_lt_i32"] == 10
    assert result.counts.classes["branch"] == 10 + 1 + 1 + 1 + 1


def test_long_branch() -> None:
    body = """
    s_getpc_b64 s[8:9]
.Lhere:
    s_add_u32 s8, s8, (.Lfar-.Lhere)&4294967295
    s_addc_u32 s9, s9, (.Lfar-.Lhere)>>32
    s_setpc_b64 s[8:9]
    s_trap 2
.Lfar:
    v_mov_b32_e32 v1, 3
    """
    assert set(run(body + STORE)[0]) == {3}
    with pytest.raises(NotEmulated, match="s_getpc_b64"):
        run("    s_getpc_b64 s[8:9]")


EXCHANGE = """
    v_lshlrev_b32_e32 v2, 2, v0
    ds_write_b32 v2, v0
    s_waitcnt lgkmcnt(0)
    s_barrier
    v_xor_b32_e32 v3, 0xfc, v0
    v_lshlrev_b32_e32 v3, 2, v3
    ds_read_b32 v1, v3
    s_waitcnt lgkmcnt(0)
"""


@pytest.mark.parametrize("order", ORDERS)
def test_waves_meet_at_barriers(order: str) -> None:
    out, result = run(EXCHANGE + STORE, size=256, threads=256, lds=1024, order=order)
    np.testing.assert_array_equal(out, np.arange(256) ^ 0xFC)
    assert result.counts.classes["barrier"] == 4


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("removed", ["s_barrier", "    s_waitcnt lgkmcnt(0)\n    s_barrier"])
def test_missing_barrier_is_a_race_in_any_order(order: str, removed: str) -> None:
    body = EXCHANGE.replace(removed, "s_nop 0" if removed == "s_barrier" else "    s_barrier")
    with pytest.raises(Fault, match=r"LDS (race|read)"):
        run(body + STORE, size=256, threads=256, lds=1024, order=order)


def test_missing_barrier_without_the_race_check_depends_on_the_order() -> None:
    body = EXCHANGE.replace("s_barrier", "s_nop 0")
    results = [
        run(body + STORE, 256, threads=256, lds=1024, order=order, lds_rules="hardware", check_races=False)[0]
        for order in ORDERS
    ]
    assert not np.array_equal(results[0], results[1])


def test_waves_that_end_early_do_not_hold_up_a_barrier() -> None:
    body = (
        """
    v_readfirstlane_b32 s8, v0
    s_cmp_ge_u32 s8, 0x80
    s_cbranch_scc1 .Lout
    s_barrier
    v_mov_b32_e32 v1, 1
    """
        + STORE
        + ".Lout:\n"
    )
    out, _ = run(body, size=256, threads=256)
    np.testing.assert_array_equal(out, np.arange(256) < 128)


def test_last_arriver_sums_the_parts() -> None:
    """Workgroups run one after another, so counting arrivals works as long as nobody waits."""
    body = """
    s_load_dwordx2 s[6:7], s[0:1], 0x0
    v_mov_b32_e32 v2, 0
    v_mov_b32_e32 v3, 1
    s_waitcnt lgkmcnt(0)
    s_mov_b64 exec, 1
    buffer_wbl2 sc1
    global_atomic_add v4, v2, v3, s[6:7] sc0 sc1
    s_waitcnt vmcnt(0)
    buffer_inv sc1
    v_readfirstlane_b32 s8, v4
    s_cmp_lg_u32 s8, 3
    s_cbranch_scc1 .Lnot_last
    v_mov_b32_e32 v5, 0x63
    global_store_dword v2, v5, s[6:7] offset:4
.Lnot_last:
    """
    out, _ = run(body, size=2, grid=(4, 1, 1))
    assert out.tolist() == [4, 0x63]


def test_endless_loop_uses_up_the_budget() -> None:
    with pytest.raises(Fault, match=r"line \d+: `s_branch \.L`: instruction budget used up"):
        run(".L:\n    s_branch .L", budget=1000)


def test_end_of_program_without_endpgm() -> None:
    text = kernel("    s_nop 0").replace("    s_endpgm\n", "")
    with pytest.raises(Fault, match="end of the program"):
        Kernel.from_asm(text).launch([np.zeros(1, np.uint32)])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    v_mov_b32_e32 v1, v2", "reads v2, which nothing has written"),
        ("    s_add_u32 s9, s9, 1", "reads s9"),
        ("    s_cbranch_vccz .L\n.L:", "reads vcc_lo, vcc_hi"),
        ("    s_load_dword s8, s[0:1], 0x0\n    s_mov_b32 s9, s8", "touches s8 before an s_waitcnt"),
        ("    s_load_dwordx2 s[6:7], s[0:1], 0x100\n", "outside of every buffer"),
        ("    ds_read_b32 v1, v0", "allocated are 0"),
        ("    s_trap 2", "trap"),
    ],
)
def test_faults_name_the_instruction_and_its_line(body: str, message: str) -> None:
    text = kernel(body)
    with pytest.raises(Fault, match=message) as caught:
        Kernel.from_asm(text).launch([np.zeros(64, np.uint32)])
    assert caught.value.line is not None
    assert caught.value.text == " ".join(text.splitlines()[caught.value.line - 1].split())


def test_unknown_instruction_is_refused_even_if_never_reached() -> None:
    with pytest.raises(NotEmulated, match=r"line \d+: `v_frob_b32 v0, v1`: unknown instruction"):
        Kernel.from_asm(kernel("    s_endpgm\n    v_frob_b32 v0, v1"))


@pytest.mark.parametrize(
    "directive",
    [
        ".amdhsa_float_round_mode_32 1",
        ".amdhsa_float_denorm_mode_32 0",
        ".amdhsa_ieee_mode 0",
        ".amdhsa_user_sgpr_flat_scratch_init 1",
    ],
)
def test_modes_that_are_not_emulated(directive: str) -> None:
    with pytest.raises(NotEmulated, match=directive.split()[0]):
        Kernel.from_asm(kernel("    s_nop 0", directives=directive))


def test_arguments_by_value() -> None:
    body = """
    s_load_dwordx4 s[8:11], s[0:1], 0x8
    s_waitcnt lgkmcnt(0)
    v_mov_b32_e32 v1, s8
    v_cmp_eq_u32_e32 vcc, 1, v0
    v_mov_b32_e32 v2, s9
    v_cndmask_b32_e32 v1, v1, v2, vcc
    v_cmp_eq_u32_e32 vcc, 2, v0
    v_mov_b32_e32 v2, s10
    v_cndmask_b32_e32 v1, v1, v2, vcc
    v_cmp_eq_u32_e32 vcc, 3, v0
    v_mov_b32_e32 v2, s11
    v_cndmask_b32_e32 v1, v1, v2, vcc
    """
    out, _ = run(body + STORE, arguments=[-2, 1.5, np.float32(2.5), b"abcd"], numbers=4)
    assert out[0] == 0xFFFFFFFE
    assert out[1:3].view(np.float32).tolist() == [1.5, 2.5]
    assert out[3] == 0x64636261


def test_pointers_into_mapped_memory() -> None:
    memory = Memory()
    part = np.zeros(64, np.uint32)
    memory.map(part, name="part", address=0x5000_0000_0000)
    text = kernel("    v_mov_b32_e32 v1, 9\n" + STORE)
    Kernel.from_asm(text).launch([Pointer(0x5000_0000_0000)], memory=memory)
    assert set(part) == {9}
    with pytest.raises(Fault, match="0x0"):
        Kernel.from_asm(text).launch([None])
    with pytest.raises(Fault, match="outside"):
        Kernel.from_asm(text).launch([Pointer(0x5000_0000_0004)], memory=memory)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([np.zeros(1)] * 3, "3 arguments for a kernel that takes 2"),
        ([np.zeros(1)], "1 arguments"),
        ([3, 4], "argument 0 is a pointer"),
        ([np.zeros(1), np.zeros(1)], "argument 1 is passed by value"),
        ([np.zeros(1), np.float64(2)], "argument 1 has 8 bytes, the kernel takes 4"),
    ],
)
def test_arguments_that_do_not_fit(arguments: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Kernel.from_asm(kernel("    s_nop 0", numbers=1)).launch(arguments)


def test_counts() -> None:
    body = """
    s_load_dwordx2 s[6:7], s[0:1], 0x0
    v_lshlrev_b32_e32 v2, 2, v0
    s_waitcnt lgkmcnt(0)
    global_load_dword v3, v2, s[6:7]
    global_load_dword v4, v2, s[6:7]
    s_waitcnt vmcnt(1)
    v_add_u32_e32 v1, v3, v3
    s_waitcnt vmcnt(0)
    """
    _, result = run(body + STORE, grid=(2, 1, 1))
    counts = result.counts
    assert counts.classes["vmem load"] == 4
    assert counts.opcodes["s_endpgm"] == 2
    assert counts.instructions == 2 * 13
    load = counts.traffic["load"]
    assert (load.instructions, load.nbytes, load.segments) == (4, 4 * 256, 4 * 4)
    assert [(w.executions, w.bytes_max) for w in counts.waits] == [(2, 512), (2, 256)]
    assert counts.lines[counts.waits[0].line] == 2


def test_a_kernel_can_be_launched_again_and_counts_start_over() -> None:
    loaded = Kernel.from_asm(kernel("    v_mov_b32_e32 v1, 5\n" + STORE))
    counts = [loaded.launch([np.zeros(64, np.uint32)]).counts.instructions for _ in range(2)]
    assert counts == [6, 6]


def test_poison_differs_by_seed_and_shows_in_what_depends_on_it() -> None:
    """v_mov_b32_dpp leaves lanes unwritten; the check of whole registers lets that pass, the poison does
    not.
    """
    body = "    v_mov_b32_dpp v1, v0 row_shr:1 row_mask:0xf bank_mask:0xf\n" + STORE
    first, second = (run(body, seed=seed)[0] for seed in (1, 2))
    assert first[1] == second[1] == 0
    assert first[0] != second[0]


def test_several_kernels_in_one_text() -> None:
    text = kernel("    v_mov_b32_e32 v1, 5\n" + STORE)
    both = text + text.replace("k:", "k2:").replace(".amdhsa_kernel k", ".amdhsa_kernel k2").replace(
        ".name: k", ".name: k2"
    )
    with pytest.raises(NotEmulated, match="2 kernels"):
        Kernel.from_asm(both)
    with pytest.raises(NotEmulated, match="no kernel k3"):
        Kernel.from_asm(both, "k3")
    out = np.zeros(64, np.uint32)
    Kernel.from_asm(both, "k2").launch([out])
    assert set(out) == {5}
