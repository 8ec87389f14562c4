"""What the backends for SGLang's and vLLM's Triton fused MoE share: spaces, defaults, seeds, compiling."""

import time
from collections.abc import Mapping
from functools import cache
from typing import ClassVar, Final

from autotune.engines.moe import ENGINE_TITLES, Quantisation, fused_by_sglang
from autotune.kernels.formats import grouped_misfit, misfit
from autotune.machine.devices import Device
from autotune.problem.arithmetic import GROUPED_INT4, Computes, Scales, Scheme
from autotune.problem.layer import Layer, Problem, Stage, gemm_dims
from autotune.problem.models import family_of
from autotune.protocol.backend import CompileRefused, Work
from autotune.protocol.legality import require_layout
from autotune.results import Compiled, LayerConfig, StaticFacts
from autotune.space.config import Config
from autotune.space.space import BoundSpace, Space, shipped_spaces

_COMPUTES: Final[Mapping[str | None, Computes]] = {
    None: Computes("bfloat16 weights and activations", layout=misfit),
    "int8_w8a8": Computes(
        "INT8 weights, a scale a channel, times INT8 activations by token",
        (Scheme("int8", Scales.CHANNEL, None, "int8"),),
        layout=misfit,
    ),
    "int4_w4a16": Computes(
        "INT4 weights, a scale every 32 values of K and no zero points, times bfloat16 activations",
        (GROUPED_INT4,),
        layout=grouped_misfit,
    ),
    "fp8_w8a8": Computes(
        "FP8 weights, a scale a channel, times FP8 activations by token",
        (Scheme("fp8", Scales.CHANNEL, None, "fp8"),),
        layout=misfit,
    ),
    "int8_w8a16": Computes(
        "INT8 weights, a scale a channel, times bfloat16 activations",
        (Scheme("int8", Scales.CHANNEL),),
        layout=misfit,
    ),
}


class EngineBackend:
    """One engine's kernel at one quantisation; subclasses name them.

    Attributes:
        engine: `sglang` or `vllm`.
        spaces: folder of the search spaces.
    """

    name: ClassVar[str]
    engine: ClassVar[str]
    spaces: ClassVar[str]
    quantisation: ClassVar[Quantisation]

    @property
    def computes(self) -> Computes:
        """What the kernel takes at this quantisation."""
        return _COMPUTES[self.quantisation.dtype]

    def looked_for(self, layer: Layer, scheme: Scheme) -> str:
        """The names under which the engine looks, where the checkpoint's blocks are in them."""
        if scheme.scales is not Scales.BLOCK or scheme.block is None:
            return ""
        fused = fused_by_sglang(family_of(layer.model), layer.experts, self.quantisation.dtype)
        more = f" and E={layer.experts + fused}, its shared expert counted in" if fused else ""
        sides = list(scheme.block)
        return (
            f"With such a checkpoint {ENGINE_TITLES[self.engine]} looks for files with block_shape={sides}"
            f"{more if self.engine == 'sglang' else ''}: what is tuned here is read by nobody"
        )

    @property
    def runtime(self) -> str:
        """The engine's kernel on the device."""
        # `sglang_w4a16` is made by `make_w4a16` of `sglang_runtime`, `sglang` by its `make`.
        return f"autotune.backends.{self.engine}_runtime:make{self.name.removeprefix(self.engine)}"

    @property
    def one_config(self) -> bool:
        """vLLM's file has one entry for both GEMMs; SGLang has a file for each."""
        return self.engine == "vllm"

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        require_layout(self.name, self.computes, layer)
        return _spaces(self.spaces)[stage].at(layer, tokens, device)

    def default(self, layer: Layer, tokens: int, device: Device) -> LayerConfig:
        """What the engine does at so many tokens without a file."""
        one, two = (self.space(layer, tokens, stage, device).default for stage in Stage)
        return LayerConfig(one, two)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        from autotune.engines.shipped import shipped_config

        space = self.space(layer, tokens, stage, device)
        found = shipped_config(self.engine, layer, tokens, stage, device, self.quantisation)
        if found is None:
            return {}
        config = space.complete({name: value for name, value in found.items() if name in space.default})
        return {"published": config} if _offered(space, config) else {}

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        # The engines' kernels take sizes that depend on the tokens as arguments that Triton specialises on.
        return f"{self.name}/{layer.key}/{stage}/m{tokens}/{config.key}"

    def environment(self, config: Config) -> Mapping[str, str]:
        return {}

    def source_digest(self) -> str:
        from autotune.engines.kernels import kernel_digest

        return kernel_digest(self.engine)

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        """Weights once, activations once, outputs once."""
        # Where the launch picks the tile, 64 by 32 stands for it.
        tile_m, tile_n, tile_k = (
            int(str(config[name] or usual))
            for name, usual in (("tile_m", 16), ("tile_n", 64), ("tile_k", 32))
        )
        n, k = gemm_dims(problem.layer, stage)
        slots = problem.tokens * problem.layer.top_k
        blocks = min(float(slots), problem.expected_experts() + slots // tile_m)
        rows = problem.tokens if stage is Stage.STAGE1 else slots
        a_bytes, w_bytes = _element_bytes(self.quantisation.dtype)
        stages = config["num_stages"]
        return Work(
            bytes_moved=problem.expected_experts() * n * k * w_bytes + rows * k * a_bytes + 2 * slots * n,
            workgroups=blocks * -(-n // tile_n),
            bytes_in_flight=tile_n
            * min(tile_k, k)
            * w_bytes
            * max(1, (int(str(stages)) if stages else 3) - 1),
        )

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        from autotune.engines.kernels import compile_engine_kernel

        def at(count: int) -> tuple[str, StaticFacts]:
            return compile_engine_kernel(self.engine, self.quantisation, layer, count, stage, config, device)

        started = time.perf_counter()
        try:
            code, facts = at(tokens)
            # The numeric gate launches it at smaller counts, too. Triton compiles odd, even and single ones
            # apart; what is not in its cache by then is compiled while the GPU waits.
            for count in sorted({1, max(1, tokens - 1)} - {tokens}):
                if self._serves(layer, count, device):
                    at(count)
        except Exception as error:
            raise CompileRefused.of(error) from error
        return Compiled(code, facts, time.perf_counter() - started)

    def _serves(self, layer: Layer, tokens: int, device: Device) -> bool:
        from autotune.engines.kernels import load_engine

        calls = load_engine(self.engine, device.runtime, device.arch, self.quantisation)
        return calls.serves(tokens, layer.top_k, layer.experts)


def _element_bytes(dtype: str | None) -> tuple[float, float]:
    """Bytes of an activation and of a weight."""
    return {
        None: (2.0, 2.0),
        "int4_w4a16": (2.0, 0.5),
        "int8_w8a16": (2.0, 1.0),
        "int8_w8a8": (1.0, 1.0),
        "fp8_w8a8": (1.0, 1.0),
    }[dtype]


def _offered(space: BoundSpace, config: Config) -> bool:
    return all(config[param.name] in param.values for param in space.params) and space.is_legal(config)


@cache
def _spaces(folder: str) -> Mapping[Stage, Space]:
    return shipped_spaces(folder)
