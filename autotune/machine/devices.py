"""Devices that are compiled for, estimated on and measured on: what the tool must know of each."""

from dataclasses import dataclass, replace

MIB = 1 << 20
KIB = 1 << 10


@dataclass(frozen=True)
class Device:
    """One GPU model, or one partition of it.

    Attributes:
        name: short name, as in `offline:mi325x`.
        arch: `gfx942`, `sm_90`, …
        runtime: `hip` or `cuda`.
        compute_units: CUs or SMs.
        wave_size: lanes of a wave (warp).
        lds_bytes: LDS (shared memory) that one workgroup may use.
        lds_bytes_per_cu: LDS of one CU.
        last_level_cache_bytes: the cache that weights must be evicted from to be cold.
        bandwidth_bytes_per_s: HBM, from the vendor's datasheet; 0: unknown.
    """

    name: str
    arch: str
    runtime: str
    compute_units: int
    wave_size: int
    lds_bytes: int
    lds_bytes_per_cu: int
    last_level_cache_bytes: int
    bandwidth_bytes_per_s: float


# AMD: CDNA3 whitepaper and the MI300X, MI308X and MI325X datasheets; last level: the Infinity Cache.
_MI325X = Device("mi325x", "gfx942", "hip", 304, 64, 64 * KIB, 64 * KIB, 256 * MIB, 6.0e12)
_H100 = Device("h100", "sm_90", "cuda", 132, 32, 227 * KIB, 228 * KIB, 50 * MIB, 3.35e12)
DEVICES = {
    device.name: device
    for device in (
        _MI325X,
        replace(_MI325X, name="mi300x", bandwidth_bytes_per_s=5.3e12),
        replace(_MI325X, name="mi308x", compute_units=80, bandwidth_bytes_per_s=5.3e12),
        _H100,
        replace(_H100, name="h200", last_level_cache_bytes=60 * MIB, bandwidth_bytes_per_s=4.8e12),
    )
}
DEFAULT_OFFLINE = "offline:mi325x"
"""The target that is prepared where there is no GPU."""


def known_device(marketing_name: str) -> Device | None:
    """The entry of the device table whose name appears in a marketing name, e.g. `AMD Instinct MI325X`."""
    squeezed = marketing_name.lower().replace(" ", "")
    return next((device for device in DEVICES.values() if device.name in squeezed), None)
