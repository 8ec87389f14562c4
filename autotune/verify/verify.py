"""A bundle against every engine that it is for."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autotune.backends.aiter.verify import verify_env
from autotune.backends.aiter_main.verify import verify_aiter
from autotune.backends.triton.export import VARIABLE as OPERATOR_VARIABLE
from autotune.backends.triton.verify import verify_operator
from autotune.engines.source import EngineSource, open_source
from autotune.engines.verify import known_engines, verify_fused_moe
from autotune.errors import UserError
from autotune.kernels.tuned import Gpu
from autotune.machine.targets import TRITON_DISTRIBUTIONS, package_version
from autotune.problem.models import Model
from autotune.protocol.bundle import Bundle
from autotune.protocol.lookup import Verification
from autotune.verify.model import Served

ENGINES = (*known_engines(), "aiter", "triton", "env")


def verify_bundle(
    folder: Path,
    *,
    engine: str | None,
    sources: Sequence[Path],
    device_name: str | None = None,
    triton_version: str | None = None,
    model: Model | None = None,
) -> list[Verification]:
    """Runs the lookups.

    Args:
        model: that is served; None: the one that the bundle names.
        engine: one of `ENGINES`; None: each that the bundle is for.
        sources: wheels or source trees; empty: what is installed.
        device_name: the serving card's name; None: the GPU here, else what the bundle was exported for.
        triton_version: of the serving stack; None: what the bundle was exported for, or of this machine
            where it is its installed engine and GPU that are asked.

    Raises:
        UserError: the folder is no bundle, the engine is unknown or not there, the bundle is not for it, or
            no engine that is asked looks at what is given.
    """
    bundle = Bundle.read(folder)
    if engine is not None and engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}: use one of {', '.join(ENGINES)}")
    chosen = [engine] if engine is not None else list(bundle.manifest.get("lookups", {}))
    if not chosen:
        raise UserError(f"{folder} says nothing of what an engine must find: export it again")
    _refuse_what_no_engine_looks_at(chosen, sources, triton_version)
    estimated = not bundle.manifest.get("measured", True)
    served = Served.of(bundle, model)
    first = (served.reason,) if served.reason else ()
    made = []
    for name in chosen:
        verification = _one(bundle, name, sources, device_name, triton_version, served)
        if name not in known_engines():  # those look a file up by the GPU's name, and have judged it
            verification = _of_gpu(verification, bundle, device_name)
        made.append(replace(verification, estimated=estimated, reasons=(*first, *verification.reasons)))
    return made


def _refuse_what_no_engine_looks_at(
    engines: Sequence[str], sources: Sequence[Path], triton_version: str | None
) -> None:
    asked = " and ".join(engines)
    if sources and not set(engines) - {"triton"}:
        raise UserError(f"--engine-source has no effect for {asked}, whose lookup is our own: leave it out")
    if len(sources) > 1 and "env" not in engines:
        raise UserError(
            f"--engine-source names {len(sources)} sources, and {asked} has one: give one of them"
        )
    if triton_version is not None and "sglang" not in engines:
        raise UserError(
            f"--triton-version {triton_version} has no effect for {asked}, only SGLang's lookup asks for it:"
            " leave it out"
        )


def _of_gpu(verification: Verification, bundle: Bundle, device_name: str | None) -> Verification:
    """The verification, failed where the serving GPU is not the one that the bundle is for.

    Args:
        device_name: the serving GPU's name; None: it is the GPU here, if there is one.
    """
    reasons, unchecked = [], []
    here = gpu_here() if device_name is None else None
    for environment in bundle.manifest.get("environments", {}).values():
        meant = Gpu(environment["device"], environment["compute_units"])
        # Of a GPU that was only named the compute units are not known.
        serving = here if device_name is None else replace(meant, name=device_name.replace("_", " "))
        if serving is None:
            unchecked.append(str(meant))
        elif not meant.is_same(serving):
            reasons.append(f"gpu: it is for {meant}, and the serving GPU is {serving}: tune on that one")
    return replace(
        verification,
        reasons=(*reasons, *verification.reasons),
        unchecked_gpu=" and ".join(unchecked),
    )


def gpu_here() -> Gpu | None:
    """The GPU of this machine; None: there is none, or no torch that sees it."""
    if not any(Path(node).exists() for node in ("/dev/kfd", "/dev/nvidiactl")):
        return None
    done = subprocess.run(
        [sys.executable, "-m", "autotune.machine.probe"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return None
    device = json.loads(done.stdout)
    return Gpu(device["name"], device["compute_units"])


def _one(
    bundle: Bundle,
    engine: str,
    sources: Sequence[Path],
    device_name: str | None,
    triton_version: str | None,
    served: Served,
) -> Verification:
    if engine == "triton":
        return verify_operator(bundle)
    if engine == "env":
        opened = [_env_source(path) for path in sources] or _installed_env_sources()
        return verify_env(bundle.variables, opened, own=[OPERATOR_VARIABLE])
    source = open_source(engine, sources[0] if sources else None)
    if engine == "aiter":
        return verify_aiter(bundle, source)
    # What is not said is asked of this machine, where it is one that could serve.
    if device_name is None:
        device_name = card_here(engine)
        if triton_version is None and not sources and device_name is not None:
            triton_version = package_version(*TRITON_DISTRIBUTIONS)
    return verify_fused_moe(
        *(bundle, engine, source),
        device_name=device_name,
        triton_version=triton_version,
        asked=served.asked(engine, bundle.lookup(engine)),
    )


def card_here(engine: str) -> str | None:
    """The serving card's name as the engine would make it; None: there is no GPU here, or no torch.

    SGLang takes torch's name, and so does vLLM on NVIDIA; on ROCm vLLM goes by the PCI device id.
    """
    if engine == "vllm" and Path("/dev/kfd").exists():
        for card in sorted(Path("/sys/class/drm").glob("card*/device")):
            if (card / "vendor").read_text().strip() == "0x1002":
                return (card / "device").read_text().strip()
    gpu = gpu_here()
    return gpu.name if gpu else None


def _env_source(path: Path) -> EngineSource:
    """Any folder or wheel: what is searched for reads need not be a package."""
    if path.is_dir():
        return EngineSource("", path)
    return open_source("aiter" if "aiter" in path.name else "flydsl", path)


def _installed_env_sources() -> list[EngineSource]:
    found = []
    for engine in ("aiter", "flydsl"):
        try:
            found.append(open_source(engine))
        except UserError:
            continue
    if not found:
        raise UserError(
            "neither AITER nor FlyDSL is installed here: give their source trees with --engine-source"
        )
    # An installed package lies beside all others: only its own folder is searched.
    return [
        EngineSource(one.engine, one.root / one.engine if one.root.is_dir() else one.root) for one in found
    ]
