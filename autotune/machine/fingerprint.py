"""Fingerprint: everything that changes a result, so that unlike results are never compared unawares."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

_FIRST_RELEASE: Final = "0.1.0"
"""Stands in every key where the first release had its own version, so that what it stored is found."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The stack on which times were made. None: not applicable, or the machine does not tell.

    Attributes:
        device: marketing name of the GPU, or the offline target's name.
        arch: `gfx942`, `sm_90`, …
        compute_units: CUs or SMs of the device or partition.
        compute_partition: SPX, CPX, …
        memory_partition: NPS1, NPS4, …
        power_cap_w: watts.
        driver: kernel driver version.
        runtime: `rocm 7.2.0`, `cuda 13.0`, or `none` offline.
        kernel_source: digest of the kernels' source, or the engine's commit.
        tool_version: the version of this tool that measured. It changes no result: stacks that differ in
            nothing else are equal and have one key.
    """

    device: str
    arch: str
    compute_units: int
    compute_partition: str | None = None
    memory_partition: str | None = None
    power_cap_w: int | None = None
    driver: str | None = None
    runtime: str
    torch: str | None = None
    triton: str | None = None
    backend: str
    kernel_source: str
    tool_version: str = field(compare=False)

    @property
    def key(self) -> str:
        """SHA-256 over all fields but the tool's version, hex."""
        stack = asdict(self) | {"tool_version": _FIRST_RELEASE}
        return hashlib.sha256(json.dumps(stack, sort_keys=True).encode()).hexdigest()

    def differences(self, other: "Fingerprint | Mapping[str, Any]") -> list[str]:
        """The fields in which another stack differs, of those that it tells, as `field: mine -> its`."""
        told = other if isinstance(other, Mapping) else asdict(other)
        names = [f.name for f in fields(self) if f.compare and f.name in told]
        pairs = ((name, getattr(self, name), told[name]) for name in names)
        return [f"{name}: {_short(mine)} -> {_short(its)}" for name, mine, its in pairs if mine != its]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) >= 40 else text  # a digest
