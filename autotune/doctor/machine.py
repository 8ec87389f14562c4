"""A machine's GPU, driver, ROCm or CUDA, torch and Triton, from files and small programs.

No GPU context is made, and nothing of these is imported.
"""

import re

from autotune.machine.devices import known_device
from autotune.machine.targets import TRITON_DISTRIBUTIONS
from autotune.protocol.doctor import Finding, HostGpu, HostTorch, State
from autotune.protocol.host import Host

# PCI device ids of GPUs with the arch gfx942 (mi325x: card and virtual function).
_NAMES = {
    0x74A1: "mi300x",
    0x74A2: "mi308x",
    0x74A5: "mi325x",
    0x74B5: "mi300x",
    0x74B6: "mi308x",
    0x74B9: "mi325x",
}


def find_gpu(host: Host) -> HostGpu | None:
    """The first GPU; None: there is none, or its driver is not loaded."""
    return _amd(host) or _nvidia(host)


def gpu_finding(gpu: HostGpu | None) -> Finding:
    """The GPU as a finding."""
    if gpu is None:
        remedy = "prepare offline: autotune run --target offline:mi325x"
        return Finding("GPU", State.NO, "none, or its driver is not loaded", remedy)
    units = f", {gpu.compute_units} {'CUs' if gpu.runtime == 'hip' else 'SMs'}" if gpu.compute_units else ""
    detail = f"{gpu.name} ({gpu.arch}{units}), driver {gpu.driver or 'unknown'}"
    return Finding("GPU", State.YES, detail)


def stack_finding(host: Host, gpu: HostGpu | None) -> Finding:
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


def _amd(host: Host) -> HostGpu | None:
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
        name = _NAMES.get(int(properties.get("device_id", 0)), arch)
        driver = host.text("/sys/module/amdgpu/version")
        return HostGpu(name, arch, "hip", simds // per_cu, driver.strip() if driver else None)
    return None


def _nvidia(host: Host) -> HostGpu | None:
    query = "--query-gpu=name,compute_cap,driver_version"
    told = host.program("nvidia-smi-query") if not host.is_this else None
    told = told or host.program("nvidia-smi", query, "--format=csv,noheader")
    fields = [field.strip() for field in (told or "").partition("\n")[0].split(",")]
    if len(fields) != 3 or "." not in fields[1]:
        return None
    name, capability, driver = fields
    device = known_device(name)
    arch = f"sm_{capability.replace('.', '')}"
    return HostGpu(name, arch, "cuda", device.compute_units if device else None, driver)


def find_torch(host: Host) -> HostTorch | None:
    """The installed torch, from its own version file."""
    folder = host.package("torch")
    if folder is None:
        return None
    try:
        text = (folder / "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    values = dict(re.findall(r"^(__version__|cuda|hip)\b[^=\n]*=\s*'([^']+)'", text, re.MULTILINE))
    build = next((f"{name} {values[name]}" for name in ("hip", "cuda") if name in values), "cpu")
    return HostTorch(values.get("__version__", "unknown"), build)


def torch_finding(torch: HostTorch | None, gpu: HostGpu | None) -> Finding:
    """torch as a finding."""
    kind = "ROCm" if gpu and gpu.runtime == "hip" else "CUDA"
    if torch is None:
        what = f"install the {kind} build of torch that your engine uses" if gpu else "pip install torch"
        return Finding("torch", State.NO, "not installed; measuring and FlyDSL need it", what)
    detail = f"{torch.version} ({torch.build})"
    if gpu and not torch.drives(gpu):
        remedy = f"install the {kind} build of torch that your engine uses"
        return Finding("torch", State.NO, f"{detail} cannot use the {gpu.arch} here", remedy)
    return Finding("torch", State.YES, detail)


def triton_finding(host: Host) -> Finding:
    """Triton as a finding."""
    folder = host.package("triton")
    if folder is None:
        remedy = "pip install 'moe-autotune[local]'"
        return Finding("Triton", State.NO, "not installed", remedy)
    version = next((v for name in TRITON_DISTRIBUTIONS if (v := host.version(name))), "unknown version")
    targets = sorted(
        path.name for path in (folder / "backends").glob("*") if (path / "compiler.py").is_file()
    )
    compiles = f", compiles for {' and '.join(targets)}" if targets else ""
    return Finding("Triton", State.YES, f"{version}{compiles}")
