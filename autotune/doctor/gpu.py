"""The GPU, its driver, and ROCm or CUDA, from files and small programs: no GPU context is made."""

import re
from dataclasses import dataclass

from autotune.machine.devices import DEVICES
from autotune.protocol.finding import Finding, State
from autotune.protocol.host import Host

# PCI device ids of cards with the arch gfx942 (mi325x: card and virtual function).
_CARDS = {
    0x74A1: "mi300x",
    0x74A2: "mi308x",
    0x74A5: "mi325x",
    0x74B5: "mi300x",
    0x74B6: "mi308x",
    0x74B9: "mi325x",
}


@dataclass(frozen=True)
class Gpu:
    """The first GPU.

    Attributes:
        runtime: `hip` or `cuda`.
        card: our name for it; None: not in the device table.
    """

    name: str
    arch: str
    runtime: str
    compute_units: int | None
    card: str | None
    driver: str | None


def find_gpu(host: Host) -> Gpu | None:
    """The first GPU; None: there is none, or its driver is not loaded."""
    return _amd(host) or _nvidia(host)


def gpu_finding(gpu: Gpu | None) -> Finding:
    """The GPU as a finding."""
    if gpu is None:
        remedy = "prepare offline: autotune run --target offline:mi325x"
        return Finding("GPU", State.NO, "none, or its driver is not loaded", remedy)
    units = f", {gpu.compute_units} {'CUs' if gpu.runtime == 'hip' else 'SMs'}" if gpu.compute_units else ""
    detail = f"{gpu.name} ({gpu.arch}{units}), driver {gpu.driver or 'unknown'}"
    return Finding("GPU", State.YES, detail)


def stack_finding(host: Host, gpu: Gpu | None) -> Finding:
    """ROCm or CUDA."""
    rocm = _rocm(host)
    if rocm:
        return Finding("ROCm", State.YES, rocm)
    told = host.program("nvidia-smi") if gpu and gpu.runtime == "cuda" else None
    cuda = re.search(r"CUDA(?: UMD)? Version:\s*([\d.]+)", told or "")
    if cuda:
        return Finding("CUDA", State.YES, f"{cuda.group(1)} (the driver's)")
    if gpu and gpu.runtime == "hip":
        return Finding("ROCm", State.NO, "an AMD GPU without ROCm", "install ROCm, or set ROCM_PATH to it")
    return Finding("ROCm", State.NOTE, "none; compiling offline needs none")


def _rocm(host: Host) -> str | None:
    for folder in (host.environ.get("ROCM_PATH"), "/opt/rocm"):
        version = host.text(f"{folder}/.info/version") if folder else None
        if version:
            return f"{version.strip()} at {folder}"
    return None


def _amd(host: Host) -> Gpu | None:
    nodes = host.path("/sys/class/kfd/kfd/topology/nodes")
    for node in sorted(nodes.glob("*"), key=lambda path: path.name.zfill(4)):
        properties = dict(
            line.split(maxsplit=1)
            for line in (
                host.text(f"/sys/class/kfd/kfd/topology/nodes/{node.name}/properties") or ""
            ).splitlines()
            if len(line.split(maxsplit=1)) == 2
        )
        target = int(properties.get("gfx_target_version", 0))
        if not target:
            continue  # a CPU
        # 90402 is gfx942: major, minor and stepping, the last in hexadecimal.
        arch = f"gfx{target // 10000}{target // 100 % 100}{target % 100:x}"
        simds = int(properties.get("simd_count", 0))
        per_cu = int(properties.get("simd_per_cu", 0)) or 4
        card = _CARDS.get(int(properties.get("device_id", 0)))
        driver = host.text("/sys/module/amdgpu/version")
        return Gpu(card or arch, arch, "hip", simds // per_cu, card, driver.strip() if driver else None)
    return None


def _nvidia(host: Host) -> Gpu | None:
    query = "--query-gpu=name,compute_cap,driver_version"
    told = host.program("nvidia-smi-query") if not host.is_this else None
    told = told or host.program("nvidia-smi", query, "--format=csv,noheader")
    fields = [field.strip() for field in (told or "").partition("\n")[0].split(",")]
    if len(fields) != 3 or "." not in fields[1]:
        return None
    name, capability, driver = fields
    squeezed = name.lower().replace(" ", "")
    device = next((one for one in DEVICES.values() if one.name in squeezed), None)
    arch = f"sm_{capability.replace('.', '')}"
    return Gpu(
        name, arch, "cuda", device.compute_units if device else None, device.name if device else None, driver
    )
