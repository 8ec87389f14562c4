"""Stand-ins for machines: folders with the files that are looked at."""

from collections.abc import Mapping
from pathlib import Path

from autotune.protocol.host import Host

MI325X_NODE = "simd_count 1216\nsimd_per_cu 4\ngfx_target_version 90402\ndevice_id 29861\nvendor_id 4098\n"
CPU_NODE = "simd_count 0\ngfx_target_version 0\n"
SITE = "usr/lib/python3.12/site-packages"


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def package(root: Path, name: str, release: str, /, **files: str) -> None:
    """An installed distribution; keys are file names with `__` for slashes and without `.py`."""
    write(root / SITE / name / "__init__.py")
    write(root / SITE / f"{name}-{release}.dist-info" / "METADATA")
    for file, text in files.items():
        write(root / SITE / name / (file.replace("__", "/") + ".py"), text)


def torch(root: Path, version: str, cuda: str = "None", hip: str = "None") -> None:
    lines = f"__version__ = '{version}'\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = {hip}\n"
    package(root, "torch", version, version=lines)


def aiter(root: Path, *, published: bool = True, conversion: int = 1) -> None:
    switch = 'os.environ.get("AITER_W4A8_USE_INT8", "0")' if published else ""
    functions = "\n".join(
        f"def {name}(q, dropout_p=0.0, how_v3_bf16_cvt={conversion}, *, out=None):\n    pass"
        for name in ("flash_attn_func", "flash_attn_varlen_func")
    )
    names = "def get_flydsl_kernel_params(): pass"
    package(
        *(root, "aiter", "0.1.12"),
        fused_moe=switch,
        ops__mha=functions,
        ops__flydsl__moe_kernels="" if published else names,
    )


def flydsl_tree(root: Path) -> str:
    write(root / "opt/FlyDSL/kernels/moe_gemm_2stage.py")
    return "/opt/FlyDSL"


def rocm_machine(root: Path, **environ: str) -> Host:
    """An MI325X in the published image: everything that is needed is there."""
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    write(nodes / "0/properties", CPU_NODE)
    write(nodes / "1/properties", MI325X_NODE)
    write(root / "sys/module/amdgpu/version", "6.16.6\n")
    write(root / "opt/rocm/.info/version", "7.2.0\n")
    write(root / "opt/rocm/llvm/bin/ld.lld", "#!/bin/sh\n").chmod(0o755)
    torch(root, "2.9.0+rocm7.2", hip="'7.2.0'")
    package(root, "triton", "3.5.0", backends__amd__compiler="")
    package(root, "flydsl", "0.1.5")
    aiter(root)
    return host(root, {"DSL2_ROOT": flydsl_tree(root), **environ})


def cuda_machine(root: Path, **environ: str) -> Host:
    """An H100 without AITER."""
    write(
        root / "programs/nvidia-smi", "| NVIDIA-SMI 580.65   Driver Version: 580.65   CUDA Version: 13.0 |\n"
    )
    write(root / "programs/nvidia-smi-query", "NVIDIA H100 80GB HBM3, 9.0, 580.65.06\n")
    torch(root, "2.9.1+cu128", cuda="'12.8'")
    package(root, "triton", "3.5.1", backends__amd__compiler="", backends__nvidia__compiler="")
    return host(root, environ)


def bare_machine(root: Path, **environ: str) -> Host:
    """A CPU with nothing installed."""
    (root / SITE).mkdir(parents=True)
    return host(root, environ)


def host(root: Path, environ: Mapping[str, str]) -> Host:
    return Host(root, {"PATH": "/usr/bin", "HOME": "/root", **environ}, [root / SITE])
