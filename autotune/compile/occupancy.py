"""Computes how many workgroups of a kernel a CDNA3 CU holds at once, and how many waves a SIMD."""

from dataclasses import replace

from autotune.machine.devices import Device
from autotune.results import StaticFacts

# CDNA3 ISA guide, chapter on program state: 512 vector registers a lane and SIMD, allocated by eights;
# at most eight waves a SIMD; four SIMDs a CU.
_VGPRS = 512
_VGPR_GRANULE = 8
_MAX_WAVES_PER_SIMD = 8
_SIMDS_PER_CU = 4


def waves_by_registers(*, vgprs: int, agprs: int) -> int:
    """Waves a SIMD that the register file has room for; 0: not one.

    Accumulation registers start at a multiple of four behind the others, in the same file.
    """
    allocated = vgprs if not agprs else -(-vgprs // 4) * 4 + agprs
    granules = max(1, -(-allocated // _VGPR_GRANULE))
    return min(_MAX_WAVES_PER_SIMD, _VGPRS // (granules * _VGPR_GRANULE))


def workgroups_per_cu(
    *, vgprs: int, agprs: int, lds_bytes: int, waves_per_workgroup: int, device: Device
) -> int:
    """Whole workgroups a CU holds, bounded by registers and by LDS; 0: not one fits."""
    by_registers = waves_by_registers(vgprs=vgprs, agprs=agprs) * _SIMDS_PER_CU // waves_per_workgroup
    return min(by_registers, device.lds_bytes_per_cu // lds_bytes) if lds_bytes else by_registers


def waves_per_simd(*, workgroups: int, waves_per_workgroup: int) -> int:
    """Waves on the fullest SIMD when a CU holds `workgroups`."""
    return -(-workgroups * waves_per_workgroup // _SIMDS_PER_CU)


def with_occupancy(facts: StaticFacts, waves: int, device: Device) -> StaticFacts:
    """Facts with what follows from them for workgroups of `waves` waves."""
    assert facts.vgprs is not None
    assert facts.agprs is not None
    assert facts.lds_bytes is not None
    workgroups = workgroups_per_cu(
        vgprs=facts.vgprs,
        agprs=facts.agprs,
        lds_bytes=facts.lds_bytes,
        waves_per_workgroup=waves,
        device=device,
    )
    simd = waves_per_simd(workgroups=workgroups, waves_per_workgroup=waves)
    return replace(facts, workgroups_per_cu=workgroups, waves_per_simd=simd)
