"""An engine's own Triton fused-MoE kernel: loaded from its file, captured as it is launched, compiled.

The file is run as it is; the rest of the engine is stood in for, whether it is installed or not. The list of
what is stood in for, and by what, is `sglang_stand_ins` and `vllm_stand_ins`.
"""

import hashlib
import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from autotune.engines.calls import EngineCalls, describe_launch
from autotune.engines.moe import Quantisation
from autotune.engines.sglang_calls import SglangCalls
from autotune.engines.source import EngineSource, open_source
from autotune.engines.stand_in import StandIns
from autotune.engines.vllm_calls import VllmCalls
from autotune.engines.weights import engine_format
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage
from autotune.results import StaticFacts
from autotune.space.config import Config

FILES: Final = {
    "sglang": (
        "sglang/kernels/ops/moe/fused_moe_triton_kernels.py",
        "sglang/kernels/ops/quantization/int8_kernel.py",
    ),
    "vllm": (
        "vllm/model_executor/layers/fused_moe/fused_moe.py",
        "vllm/model_executor/layers/quantization/utils/int8_utils.py",
    ),
}
"""The file with the fused-MoE kernels, and the one that quantises activations to INT8."""

KERNELS: Final = ("fused_moe_kernel", "fused_moe_kernel_gptq_awq")
"""The Triton kernels in both engines' files; the second is for weights in groups."""


def sglang_stand_ins(runtime: str, arch: str) -> dict[str, dict[str, Any]]:
    """Attributes of the modules that SGLang's kernel files import and that are not run.

    They are what these functions return on such a GPU with SGLang's own defaults.
    """
    from autotune.engines.glue import quantise_fp8

    hip = runtime == "hip"
    major = 0 if hip else int(arch.removeprefix("sm_")[:-1])
    fp8 = engine_format(Quantisation("fp8_w8a8"), arch)
    return {
        "sglang.srt.utils": {
            "is_cuda": lambda: not hip,
            "is_hip": lambda: hip,
            "is_cpu": lambda: False,
            "cpu_has_amx_support": lambda: False,
            "is_sm90_supported": lambda *_: major == 9,
        },
        "sglang.srt.environ": {"envs": SimpleNamespace(SGLANG_USE_AITER=SimpleNamespace(get=lambda: False))},
        "sglang.srt.batch_invariant_ops": {"is_batch_invariant_mode_enabled": lambda: False},
        "sglang.srt.layers.moe.utils": {"get_moe_padding_size": lambda *_: 0},
        # A compiled extension there.
        "sglang.kernels.ops.quantization.fp8_kernel": {
            "scaled_fp8_quant": lambda a, *_, **__: quantise_fp8(a, fp8),
        },
        # Programmatic dependent launch, which SGLang uses from Hopper on.
        "sglang.kernels.jit.utils": {"is_arch_support_pdl": lambda: major >= 9},
    }


def vllm_stand_ins(runtime: str, arch: str) -> dict[str, dict[str, Any]]:
    """The same for vLLM's files."""
    import triton
    import triton.language as tl

    hip = runtime == "hip"
    major = 0 if hip else int(arch.removeprefix("sm_")[:-1])
    platform = SimpleNamespace(
        is_rocm=lambda: hip,
        is_cuda=lambda: not hip,
        is_xpu=lambda: False,
    )
    return {
        "vllm.platforms": {"current_platform": platform},
        "vllm.triton_utils": {"tl": tl, "triton": triton},
        "vllm.model_executor.layers.fused_moe.utils": {
            "enable_swap_ab": lambda m, n: major == 9 and m < 64 <= n,
            "resolve_moe_use_td": lambda: False,
            "warn_if_moe_use_td_ineffective": lambda *_, **__: None,
        },
    }


@cache
def load_engine(engine: str, runtime: str, arch: str, quantisation: Quantisation) -> EngineCalls:
    """Loads the kernels for a kind of GPU; once a process, which serves one kind only.

    Raises:
        UserError: the engine's source is not here.
    """
    root = _unpacked(open_source(engine))
    names = [path.removesuffix(".py").replace("/", ".") for path in FILES[engine]]
    real = {name: root / path for name, path in zip(names, FILES[engine], strict=True)}
    made = sglang_stand_ins if engine == "sglang" else vllm_stand_ins
    StandIns((engine,), real, made(runtime, arch)).install()
    for name in [name for name in sys.modules if name.partition(".")[0] == engine]:
        del sys.modules[name]
    quantise, moe = importlib.import_module(names[1]), importlib.import_module(names[0])
    if engine == "sglang":
        return SglangCalls(moe, quantisation)
    return VllmCalls(moe, quantise, quantisation, engine_format(quantisation, arch))


@cache
def _unpacked(source: EngineSource) -> Path:
    """A folder with the files; Triton reads a kernel's source from there for as long as the process lives."""
    if not source.root.is_file():
        return source.root
    folder = tempfile.mkdtemp(prefix="autotune-engine-")
    return source.unpack(Path(folder), *FILES[source.engine])


@cache
def kernel_digest(engine: str) -> str:
    """SHA-256 over the kernels' files, hex.

    Raises:
        UserError: the engine's source is not here.
    """
    source = open_source(engine)
    texts = (source.text(path) for path in FILES[engine])
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


@dataclass(frozen=True)
class CapturedLaunch:
    """A kernel with the arguments of one launch."""

    kernel: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


def captured(module: Any, act: Callable[[], None]) -> CapturedLaunch:
    """The launch of a fused-MoE kernel that `act` makes, without making it."""
    taken: list[CapturedLaunch] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self._kernel = kernel

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda *args, **keywords: taken.append(CapturedLaunch(self._kernel, args, keywords))

    own = {name: getattr(module, name) for name in KERNELS}
    for name, kernel in own.items():
        setattr(module, name, Recorder(kernel))
    try:
        act()
    finally:
        for name, kernel in own.items():
            setattr(module, name, kernel)
    (launch,) = taken
    return launch


def compile_engine_kernel(
    engine: str,
    quantisation: Quantisation,
    layer: Layer,
    tokens: int,
    stage: Stage,
    config: Config,
    device: Device,
) -> tuple[str, StaticFacts]:
    """Compiles what the engine would launch; needs no GPU.

    Returns:
        Hash of the machine code, and its facts.
    """
    from autotune.compile.isa import gpu_target, machine_code_hash, static_facts
    from autotune.compile.occupancy import with_occupancy
    from autotune.engines.specialise import compile_launch

    calls = load_engine(engine, device.runtime, device.arch, quantisation)
    form = engine_format(quantisation, device.arch)
    act = describe_launch(calls, quantisation, form, layer, tokens, stage, config)
    launch = captured(calls.moe, act)
    kernel = compile_launch(launch, gpu_target(device))
    meta = kernel.metadata
    if device.runtime == "hip":
        code = kernel.asm["amdgcn"]
        facts = static_facts(code, dynamic_lds_bytes=meta.shared)
        return machine_code_hash(code, meta.num_warps), with_occupancy(facts, meta.num_warps, device)
    return machine_code_hash(kernel.asm["ptx"], meta.num_warps), StaticFacts(lds_bytes=meta.shared)
