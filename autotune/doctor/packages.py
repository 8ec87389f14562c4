"""torch and Triton: which build, by their files."""

import re
from dataclasses import dataclass

from autotune.doctor.gpu import Gpu
from autotune.machine.targets import TRITON_DISTRIBUTIONS
from autotune.protocol.finding import Finding, State
from autotune.protocol.host import Host


@dataclass(frozen=True)
class Torch:
    """An installed torch.

    Attributes:
        build: `hip 7.2`, `cuda 13.0` or `cpu`.
    """

    version: str
    build: str

    def drives(self, gpu: Gpu) -> bool:
        """Whether it is a build for that GPU."""
        return self.build.startswith(gpu.runtime)


def find_torch(host: Host) -> Torch | None:
    """The installed torch, from its own version file."""
    folder = host.package("torch")
    if folder is None:
        return None
    try:
        text = (folder / "version.py").read_text()
    except OSError:
        return None
    values = dict(re.findall(r"^(__version__|cuda|hip)\b[^=\n]*=\s*'([^']+)'", text, re.MULTILINE))
    build = next((f"{name} {values[name]}" for name in ("hip", "cuda") if name in values), "cpu")
    return Torch(values.get("__version__", "unknown"), build)


def torch_finding(torch: Torch | None, gpu: Gpu | None) -> Finding:
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
