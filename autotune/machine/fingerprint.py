"""Fingerprint: everything that changes a result, so that unlike results are never compared unawares."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Fingerprint:
    """The stack on which figures were made. None: not applicable, or the machine does not tell.

    Attributes:
        device: marketing name of the card, or the offline target's name.
        arch: `gfx942`, `sm_90`, …
        compute_units: CUs or SMs of the device or partition.
        compute_partition: SPX, CPX, …
        memory_partition: NPS1, NPS4, …
        power_cap_w: watts.
        driver: kernel driver version.
        runtime: `rocm 7.2.0`, `cuda 13.0`, or `none` offline.
        kernel_source: digest of the kernels' source, or the engine's commit.
    """

    device: str
    arch: str
    compute_units: int
    compute_partition: str | None
    memory_partition: str | None
    power_cap_w: int | None
    driver: str | None
    runtime: str
    torch: str | None
    triton: str | None
    backend: str
    kernel_source: str
    tool_version: str

    @property
    def key(self) -> str:
        """SHA-256 over all fields, hex."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def differences(self, other: "Fingerprint") -> list[str]:
        """The fields in which two stacks differ, as `field: mine -> theirs`."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name}: {mine[name]} -> {theirs[name]}" for name in mine if mine[name] != theirs[name]]
