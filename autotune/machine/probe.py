"""Prints the GPU that torch sees as JSON, the fields of `machine.devices.Device`; run as a module."""

import json
from dataclasses import asdict, replace

from autotune.machine.devices import MIB, Device
from autotune.machine.targets import known_device


def live_device() -> Device:
    """The first visible device; what torch does not tell comes from the table of known devices.

    Raises:
        RuntimeError: torch sees no GPU.
    """
    import torch

    properties = torch.cuda.get_device_properties(0)
    name = torch.cuda.get_device_name(0) or getattr(properties, "gcnArchName", "")
    hip = torch.version.hip is not None
    known = known_device(name)
    if hip:
        arch = properties.gcnArchName.split(":")[0]
        if known is None:  # containers may hide the marketing name: take the arch's sibling
            known = known_device("mi325x") if arch == "gfx942" else None
    else:
        arch = f"sm_{properties.major}{properties.minor}"
    lds = getattr(properties, "shared_memory_per_block_optin", 0) or properties.shared_memory_per_block
    base = known or Device(
        name=name,
        arch=arch,
        runtime="hip" if hip else "cuda",
        compute_units=0,
        wave_size=properties.warp_size,
        lds_bytes=lds,
        lds_bytes_per_cu=getattr(properties, "shared_memory_per_multiprocessor", lds),
        # Unknown GPUs err towards colder weights: AMD's have an Infinity Cache that no property tells of.
        last_level_cache_bytes=max(
            4 * getattr(properties, "L2_cache_size", 64 * MIB), 256 * MIB if hip else 0
        ),
        bandwidth_bytes_per_s=0.0,
    )
    return replace(base, name=name, arch=arch, compute_units=properties.multi_processor_count)


if __name__ == "__main__":
    print(json.dumps(asdict(live_device())))
