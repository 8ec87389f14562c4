"""Stand-ins for what is not here: a flydsl wheel, FlyDSL trees, and AITER.

They behave as the real ones do where it bites; none of their code is the real ones'.

    wheel/            a `flydsl` package whose passes write a toy assembly, and as much torch as it needs
    published_tree/   kernels of the published generation: gates read while tracing, unchecked tiles
    main_tree/        kernels of FlyDSL main: parameters checked by assertions
    site/             an `aiter` package of the published generation
    site_main/        an `aiter` package of main, beside the generator of its Composable Kernel instances
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
WHEEL = HERE / "wheel"
PUBLISHED_TREE = HERE / "published_tree"
MAIN_TREE = HERE / "main_tree"
SITE = HERE / "site"
SITE_MAIN = HERE / "site_main"


def python_with_wheel(folder: Path, version: str = "0.1.5") -> Path:
    """An executable in `folder` that is this Python with the stand-in wheel, of any version, installed."""
    info = folder / "site" / f"flydsl-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flydsl\nVersion: {version}\n")
    python = folder / "python"
    path = f"{WHEEL}:{folder / 'site'}"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def with_buffer_atomics(package: Path) -> None:
    """Gives an AITER main's folder `aiter/` a stage 2 as since 078783cfe5, with what gfx942 does not have."""
    gemm2 = package / "ops/flydsl/kernels/moe_2stage_a16wmix/gemm2.py"
    gemm2.parent.mkdir(parents=True, exist_ok=True)
    gemm2.write_text("def add(fx): return fx.rocdl.BufferAtomicPkAdd(fx.BFloat16)\n")


def forget_aiter() -> None:
    """What was imported from a stand-in is not there for a test that has none."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "aiter"]:
        del sys.modules[name]
