"""Backend `triton`: our own W4A8 kernels, compiled for CUDA and ROCm from one source."""

import importlib.util
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autotune import kernels
from autotune.compile.isa import gpu_target, machine_code_hash, static_facts
from autotune.compile.occupancy import with_occupancy
from autotune.errors import UserError
from autotune.identity import source_digest, stored_name
from autotune.kernels.formats import misfit
from autotune.machine.devices import Device
from autotune.problem.arithmetic import W4A8, Computes
from autotune.problem.layer import Layer, Problem, Stage, gemm_dims
from autotune.protocol.backend import CompileRefused, Listing, Work
from autotune.protocol.legality import require_layout
from autotune.protocol.registry import weight_bytes
from autotune.results import Compiled, StaticFacts
from autotune.space.config import Config
from autotune.space.read import shipped_spaces
from autotune.space.space import BoundSpace, Space

if TYPE_CHECKING:
    pass

_SOURCES: Final = (
    "chain",
    "config",
    "layout",
    "prepare",
    "quantise",
    "sort",
    "spec",
    "stage1",
    "stage2",
    "tiles",
)
"""The modules of `autotune.kernels` that decide what is compiled and launched."""


class TritonW4A8:
    """Our W4A8 kernels; see `autotune.kernels`."""

    name = "triton"
    runtime = "autotune.backends.triton.runtime:make"
    computes = Computes(
        "INT4 weights, a scale per channel, times INT8 activations by token",
        W4A8,
        layout=misfit,
        spread=lambda tp, ep: None,
    )

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        require_layout(self.name, self.computes, layer)
        return _spaces()[stage].at(layer, tokens, device, _compile_options(device))

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        return {}  # nothing is published for these kernels

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        # The token count is a run-time argument: one binary serves all.
        return f"{layer.key}/{stage}/{config.key}"

    def environment(self, config: Config) -> Mapping[str, str]:
        return {}

    def source_digest(self) -> str:
        _require_triton()
        return kernel_source()

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        """Weights once, activations once, outputs once, partial sums written and read."""
        from autotune.kernels.config import Stage1Config, Stage2Config

        knobs = Stage1Config.of(config) if stage is Stage.STAGE1 else Stage2Config.of(config)
        loops = isinstance(knobs, Stage2Config) and knobs.reduce == "loop"
        n, k = gemm_dims(problem.layer, stage)
        slots = problem.expected_slots()
        blocks = min(slots, problem.expected_experts() + slots // knobs.tile_m)
        n_tiles = -(-n // knobs.tile_n)
        if stage is Stage.STAGE1:
            activations, out = problem.expected_tokens() * k, 2 * slots * n / 2
            partials = slots * n * knobs.split_k if knobs.split_k > 1 else 0
        else:
            activations, out = slots * k, 2 * problem.tokens * n
            partials = 0 if loops else slots * n * knobs.split_k
        return Work(
            bytes_moved=weight_bytes(TritonW4A8.name).read(problem, stage)
            + activations
            + out
            + 2 * 4 * partials,
            workgroups=n_tiles if loops else blocks * n_tiles * knobs.split_k,
            # The software pipeline has num_stages - 1 weight tiles in flight.
            bytes_in_flight=knobs.tile_n * min(knobs.tile_k, k) / 2 * max(1, knobs.num_stages - 1),
        )

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        return self.listing(layer, tokens, stage, config, device).compiled

    def listing(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Listing:
        _require_triton()
        from autotune.kernels.spec import compile_kernel, stage_spec

        started = time.perf_counter()
        spec = stage_spec(stage, config, layer, device.runtime)
        try:
            kernel = compile_kernel(spec, gpu_target(device))
        except UserError:
            raise
        except Exception as error:
            raise CompileRefused.of(error) from error
        # Not the grid: tiles and splits are constants in the code, and one binary serves every token count.
        launch = (kernel.metadata.shared, kernel.metadata.num_warps)
        if device.runtime == "hip":
            text = kernel.asm["amdgcn"]
            facts = with_occupancy(
                static_facts(text, dynamic_lds_bytes=kernel.metadata.shared),
                kernel.metadata.num_warps,
                device,
            )
        else:
            text = kernel.asm["ptx"]
            facts = StaticFacts(lds_bytes=kernel.metadata.shared)
        code = machine_code_hash(text, *launch)
        return Listing(text, Compiled(code, facts, time.perf_counter() - started))


def _require_triton() -> None:
    if importlib.util.find_spec("triton") is None:
        raise UserError(
            "backend triton needs Triton, which is not installed: pip install 'moe-autotune[local]'"
        )


@cache
def kernel_source() -> str:
    """The name of the kernels' source: see `autotune.identity`."""
    folder = Path(kernels.__file__).parent
    return stored_name(source_digest(folder / f"{name}.py" for name in _SOURCES))


@cache
def _spaces() -> Mapping[Stage, Space]:
    return shipped_spaces("triton")


@cache
def _compile_options(device: Device) -> frozenset[str]:
    _require_triton()
    from autotune.kernels.spec import compile_options

    return compile_options(gpu_target(device))
