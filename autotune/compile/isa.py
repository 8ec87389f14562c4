"""Reads registers, LDS, spills and instructions from compiled code, and whether it may be launched."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from autotune.machine.devices import Device
from autotune.results import StaticFacts

if TYPE_CHECKING:
    from triton.backends.compiler import GPUTarget


_INSTRUCTION = re.compile(r"^\s+([a-z]+_[a-z0-9_]+)\b", re.MULTILINE)
_DEBUG = (".loc", ".file", ".cfi_", ".Ltmp", ".Lfunc_", ".ident", ".section", ".set", ".globl", ".type")
_VMEM_LOAD = ("global_load", "buffer_load", "flat_load")


def instruction_counts(asm: str) -> Counter[str]:
    """Occurrences of each mnemonic in the text: static counts, loops are counted once."""
    body = asm.split(".amdhsa_kernel", 1)[0]  # the descriptor and metadata below hold no instruction
    return Counter(_INSTRUCTION.findall(body))


def _sum(counts: Counter[str], prefixes: str | Iterable[str]) -> int:
    return sum(n for name, n in counts.items() if name.startswith(tuple(prefixes)))


def _directive(asm: str, name: str) -> int:
    match = re.search(rf"{re.escape(name)}\s+(\d+)", asm)
    if match is None:
        raise ValueError(f"the assembly has no {name}: it is not a gfx9 kernel")
    return int(match.group(1))


def machine_code_hash(asm: str, *launch: object) -> str:
    """SHA-256 of the instructions and the kernel descriptor, hex.

    Comments and debug lines are left out: they differ between equal programs. `launch` is whatever else
    makes two launches differ, such as the grid and the dynamic LDS.
    """
    digest = hashlib.sha256(repr(launch).encode())
    for line in asm.split(".end_amdhsa_kernel", 1)[0].splitlines():
        code = line.split(";", 1)[0].strip()
        if code and not code.startswith(_DEBUG):
            digest.update(code.encode() + b"\n")
    return digest.hexdigest()


def static_facts(asm: str, *, dynamic_lds_bytes: int = 0) -> StaticFacts:
    """Reads the facts of one kernel.

    Args:
        dynamic_lds_bytes: LDS that the launch adds to what the descriptor names; Triton's is all dynamic.

    Raises:
        ValueError: the text is no gfx9 kernel with metadata.
    """
    counts = instruction_counts(asm)
    agprs = _directive(asm, ".agpr_count:")
    return StaticFacts(
        # The metadata counts the whole unified file; the accumulation registers are part of it.
        vgprs=_directive(asm, ".vgpr_count:") - agprs,
        agprs=agprs,
        sgprs=_directive(asm, ".sgpr_count:"),
        spills=_directive(asm, ".vgpr_spill_count:"),
        lds_bytes=_directive(asm, ".group_segment_fixed_size:") + dynamic_lds_bytes,
        mfma=_sum(counts, ("v_mfma", "v_smfmac")),
        waits=counts["s_waitcnt"],
        loads=_sum(counts, _VMEM_LOAD),
        lds_ops=_sum(counts, ("ds_",)),
        instructions=counts.total(),
    )


def gpu_target(device: Device) -> "GPUTarget":
    """Triton's name for a device."""
    from triton.backends.compiler import GPUTarget

    arch: Any = device.arch if device.runtime == "hip" else int(re.sub(r"\D", "", device.arch))
    return GPUTarget(device.runtime, arch, device.wave_size)


def refusal(facts: StaticFacts, device: Device, *, allow_spills: bool) -> str | None:
    """Why the code may not run on `device`, as one sentence; None when it may."""
    if facts.lds_bytes is not None and facts.lds_bytes > device.lds_bytes:
        return f"needs {facts.lds_bytes} bytes of LDS, {device.name} has {device.lds_bytes} per workgroup"
    if facts.workgroups_per_cu == 0:
        return f"a workgroup's registers do not fit a compute unit of {device.name}"
    if facts.spills and not allow_spills:
        return f"spills {facts.spills} vector registers"
    return None
