"""What the compiled code says of itself, occupancy, refusals and the estimate."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.compile.estimate import estimate_us, executed_work
from autotune.compile.isa import instruction_counts, machine_code_hash, refusal, static_facts
from autotune.compile.occupancy import waves_by_registers, waves_per_simd, workgroups_per_cu
from autotune.machine.devices import DEVICES, KIB
from autotune.protocol.backend import Work
from autotune.results import StaticFacts
from autotune.space.read import parse_space
from tests.spaces import KIMI, MI325X, TEXT

ASM = """
	.text
	.globl	kernel
kernel:
	.loc	1 5 0                           ; kernel.py:5:0
	s_load_dwordx2 s[2:3], s[0:1], 0x0
	s_waitcnt lgkmcnt(0)
	global_load_dwordx4 v[0:3], v4, s[2:3]
	buffer_load_dword v5, v6, s[4:7], 0 offen
	s_waitcnt vmcnt(0)
	ds_write_b128 v8, v[0:3]
	ds_read_b64 v[10:11], v8
	v_mfma_i32_16x16x32_i8 a[0:3], v[0:1], v[2:3], a[0:3]
	s_endpgm
	.amdhsa_kernel kernel
		.amdhsa_next_free_vgpr 96
	.end_amdhsa_kernel
amdhsa.kernels:
  - .agpr_count:     32
    .group_segment_fixed_size: 512
    .sgpr_count:     18
    .vgpr_count:     96
    .vgpr_spill_count: 3
"""


def test_facts_are_read_from_the_text() -> None:
    assert static_facts(ASM, dynamic_lds_bytes=1024) == StaticFacts(
        vgprs=64,
        agprs=32,
        sgprs=18,
        spills=3,
        lds_bytes=1536,
        mfma=1,
        waits=2,
        loads=2,
        lds_ops=2,
        instructions=9,
    )


def test_instructions_are_counted_and_directives_are_not() -> None:
    counts = instruction_counts(ASM)
    assert counts["s_waitcnt"] == 2
    assert counts.total() == 9


def test_text_that_is_no_kernel_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a gfx9 kernel"):
        static_facts("nothing")


def test_equal_programs_have_equal_hashes_whatever_their_comments() -> None:
    other = ASM.replace("kernel.py:5:0", "/elsewhere/kernel.py:7:0").replace(".loc	1 5 0", ".loc	1 7 0")
    assert machine_code_hash(ASM, (31, 1, 1)) == machine_code_hash(other, (31, 1, 1))


@pytest.mark.parametrize(
    "other", [ASM.replace("vmcnt(0)", "vmcnt(1)"), ASM.replace("next_free_vgpr 96", "next_free_vgpr 104")]
)
def test_unlike_programs_have_unlike_hashes(other: str) -> None:
    assert machine_code_hash(other) != machine_code_hash(ASM)


def test_equal_code_with_another_grid_is_another_program() -> None:
    assert machine_code_hash(ASM, (31, 1, 1)) != machine_code_hash(ASM, (62, 1, 1))


@pytest.mark.parametrize(
    ("vgprs", "agprs", "waves"),
    [(1, 0, 8), (64, 0, 8), (65, 0, 7), (128, 0, 4), (129, 0, 3), (256, 0, 2), (256, 256, 1), (62, 64, 4)],
)
def test_waves_that_the_register_file_holds(vgprs: int, agprs: int, waves: int) -> None:
    assert waves_by_registers(vgprs=vgprs, agprs=agprs) == waves


@given(st.integers(1, 256), st.integers(0, 256), st.integers(0, 65536), st.sampled_from([1, 2, 4, 8, 16]))
def test_occupancy_keeps_to_every_limit(vgprs: int, agprs: int, lds: int, waves: int) -> None:
    held = workgroups_per_cu(
        vgprs=vgprs, agprs=agprs, lds_bytes=lds, waves_per_workgroup=waves, device=MI325X
    )
    assert held * lds <= MI325X.lds_bytes_per_cu
    assert held * waves <= 32
    assert waves_per_simd(workgroups=held, waves_per_workgroup=waves) <= waves_by_registers(
        vgprs=vgprs, agprs=agprs
    )


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (StaticFacts(lds_bytes=65537), "65537 bytes of LDS"),
        (StaticFacts(lds_bytes=65536), None),
        (StaticFacts(spills=2), "spills 2 vector registers"),
        (StaticFacts(workgroups_per_cu=0), "do not fit"),
        (StaticFacts(), None),
    ],
)
def test_refusals(facts: StaticFacts, words: str | None) -> None:
    reason = refusal(facts, MI325X, allow_spills=False)
    assert (reason is None) if words is None else (words in str(reason))


def test_a_workgroup_may_use_less_lds_than_its_compute_unit_has() -> None:
    """They differ on an H100: 227 KiB and 228 KiB."""
    h100 = DEVICES["h100"]
    assert refusal(StaticFacts(lds_bytes=227 * KIB), h100, allow_spills=False) is None
    reason = refusal(StaticFacts(lds_bytes=227 * KIB + 1), h100, allow_spills=False)
    assert reason == "needs 232449 bytes of LDS, h100 has 232448 per workgroup"
    rule = '[[rules]]\nname = "fits"\nrequire = "lds_bytes == 227 * 1024"\nreason = "for the test"\n'
    space = parse_space(TEXT + rule).at(KIMI, 4, h100)
    assert space.broken_rule(space.default) is None
    held = workgroups_per_cu(vgprs=32, agprs=0, lds_bytes=76 * KIB, waves_per_workgroup=1, device=h100)
    assert held == 3, "three times 76 KiB are the whole 228 KiB of the compute unit"


def test_spills_are_allowed_on_request() -> None:
    assert refusal(StaticFacts(spills=2), MI325X, allow_spills=True) is None


works = st.builds(
    Work,
    bytes_moved=st.floats(1e6, 1e9),
    workgroups=st.floats(1, 1e5),
    bytes_in_flight=st.floats(64, 1e6),
)


@given(works, st.integers(1, 8))
def test_no_estimate_beats_the_bandwidth(work: Work, resident: int) -> None:
    us = estimate_us(work, StaticFacts(workgroups_per_cu=resident), MI325X)
    assert us > work.bytes_moved / MI325X.bandwidth_bytes_per_s * 1e6


@given(works, st.integers(1, 8))
def test_more_bytes_in_flight_are_never_slower(work: Work, resident: int) -> None:
    facts = StaticFacts(workgroups_per_cu=resident)
    deeper = Work(work.bytes_moved, work.workgroups, work.bytes_in_flight * 2)
    assert estimate_us(deeper, facts, MI325X) <= estimate_us(work, facts, MI325X)


def counts(in_flight: float, coalescing: float | None) -> dict[str, Any]:
    return {"waves": 4, "load_coalescing": coalescing, "waits": {"bytes_in_flight": in_flight}}


def test_executed_counts_take_the_place_of_what_the_config_promises() -> None:
    promised = Work(bytes_moved=1e8, workgroups=304, bytes_in_flight=1e6)
    assert executed_work(promised, counts(2048.0, 1.3)) == Work(1e8, 304, 8192.0)
    assert executed_work(promised, counts(2048.0, 0.5)) == Work(2e8, 304, 8192.0)
    assert executed_work(promised, {}) is None
    assert executed_work(promised, counts(0.0, None)) is None


def test_one_workgroup_too_many_takes_another_round() -> None:
    facts = StaticFacts(workgroups_per_cu=1)
    full, over = (estimate_us(Work(1e8, workgroups, 1e5), facts, MI325X) for workgroups in (304.0, 305.0))
    assert over > 1.8 * full
