"""What a compiled candidate must meet before it may be launched."""

from autotune.machine.devices import Device
from autotune.results import StaticFacts


def refusal(facts: StaticFacts, device: Device, *, allow_spills: bool) -> str | None:
    """Why the code may not run on `device`, as one sentence; None when it may."""
    if facts.lds_bytes is not None and facts.lds_bytes > device.lds_bytes:
        return f"needs {facts.lds_bytes} bytes of LDS, {device.name} has {device.lds_bytes} a workgroup"
    if facts.workgroups_per_cu == 0:
        return f"a workgroup's registers do not fit a compute unit of {device.name}"
    if facts.spills and not allow_spills:
        return f"spills {facts.spills} vector registers"
    return None
