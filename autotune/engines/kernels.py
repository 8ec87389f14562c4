"""An engine's own Triton fused-MoE kernel: loaded from its file, captured as it is launched, compiled.

The file is run as it is; the rest of the engine is stood in for, whether it is installed or not. What is
stood in for, and by what, is `Engine.stand_ins`.
"""

import hashlib
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from autotune.engines.calls import EngineCalls, describe_launch
from autotune.engines.rows import Engine, Row
from autotune.engines.source import EngineSource, open_source
from autotune.engines.stand_in import StandIns
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage
from autotune.results import StaticFacts
from autotune.space.config import Config

KERNELS: Final = ("fused_moe_kernel", "fused_moe_kernel_gptq_awq")
"""The Triton kernels in both engines' files; the second is for weights in groups."""


@cache
def load_engine(row: Row, runtime: str, arch: str) -> EngineCalls:
    """Loads the kernels for a kind of GPU; once a process, which serves one kind only.

    Raises:
        UserError: the engine's source is not here.
    """
    engine = row.engine
    root = _unpacked(open_source(engine.name), engine.files)
    names = [path.removesuffix(".py").replace("/", ".") for path in engine.files]
    real = {name: root / path for name, path in zip(names, engine.files, strict=True)}
    StandIns((engine.name,), real, engine.stand_ins(runtime, arch)).install()
    for name in [name for name in sys.modules if name.partition(".")[0] == engine.name]:
        del sys.modules[name]
    quantise, moe = importlib.import_module(names[1]), importlib.import_module(names[0])
    return engine.calls(moe, quantise, row.dtype, row.per_channel, row.dtype.format(arch))


@cache
def _unpacked(source: EngineSource, files: tuple[str, ...]) -> Path:
    """A folder with the files; Triton reads a kernel's source from there for as long as the process lives."""
    if not source.root.is_file():
        return source.root
    folder = tempfile.mkdtemp(prefix="autotune-engine-")
    return source.unpack(Path(folder), *files)


@cache
def kernel_digest(engine: Engine) -> str:
    """SHA-256 over the kernels' files, hex.

    Raises:
        UserError: the engine's source is not here.
    """
    source = open_source(engine.name)
    texts = (source.text(path) for path in engine.files)
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


@dataclass(frozen=True)
class CapturedLaunch:
    """A kernel with the arguments of one launch."""

    kernel: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


def captured(module: Any, act: Callable[[], None]) -> CapturedLaunch:
    """The launch of a fused-MoE kernel that `act` makes, without making it."""
    launches: list[CapturedLaunch] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self._kernel = kernel

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda *args, **keywords: launches.append(CapturedLaunch(self._kernel, args, keywords))

    own = {name: getattr(module, name) for name in KERNELS}
    for name, kernel in own.items():
        setattr(module, name, Recorder(kernel))
    try:
        act()
    finally:
        for name, kernel in own.items():
            setattr(module, name, kernel)
    (launch,) = launches
    return launch


class AbsentGpu:
    """Enough of a driver for Triton's launcher to compile for a target without touching a device."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> Any:
        return self._target  # the launcher keeps what it made by device: two targets, two devices

    def get_current_stream(self, device: Any = None) -> int:
        return 0


def compile_launch(launch: CapturedLaunch, target: Any) -> Any:
    """Triton's compiled kernel for a GPU that need not be here: `.asm`, `.metadata`.

    Through Triton's own launcher: whatever a version puts in the key of its disk cache, the launch on the
    GPU then finds this binary.

    Args:
        launch: tensors may be without storage: their dtypes, alignment and sizes are what counts.

    Raises:
        Exception: whatever the compiler raises.
    """
    kernel = launch.kernel
    with _compiling_for(target):
        compiled = kernel.run(*launch.arguments, grid=(1,), warmup=True, **launch.keywords)
    kernel.device_caches.clear()  # a worker compiles hundreds, each once
    return compiled


@contextmanager
def _compiling_for(target: Any) -> Iterator[None]:
    from triton.runtime import driver

    before = driver._active  # `driver.active` would look for a GPU; tests/engines pins the name
    driver.set_active(AbsentGpu(target))
    try:
        yield
    finally:
        driver.set_active(before)


def compile_engine_kernel(
    row: Row, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device
) -> tuple[str, StaticFacts]:
    """Compiles what the engine would launch; needs no GPU.

    Returns:
        Hash of the machine code, and its facts.
    """
    from autotune.compile.isa import gpu_target, machine_code_hash, static_facts
    from autotune.compile.occupancy import with_occupancy

    calls = load_engine(row, device.runtime, device.arch)
    act = describe_launch(calls, row.dtype, row.dtype.format(device.arch), layer, tokens, stage, config)
    launch = captured(calls.moe, act)
    kernel = compile_launch(launch, gpu_target(device))
    meta = kernel.metadata
    if device.runtime == "hip":
        code = kernel.asm["amdgcn"]
        facts = static_facts(code, dynamic_lds_bytes=meta.shared)
        return machine_code_hash(code, meta.num_warps), with_occupancy(facts, meta.num_warps, device)
    return machine_code_hash(kernel.asm["ptx"], meta.num_warps), StaticFacts(lds_bytes=meta.shared)
