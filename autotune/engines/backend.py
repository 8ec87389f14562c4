"""The backends of SGLang's and vLLM's Triton fused MoE: spaces, defaults, seeds and compiling."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from autotune.engines.moe import Quantisation
from autotune.engines.rows import Row
from autotune.machine.devices import Device
from autotune.problem.arithmetic import Computes, Scales, Scheme
from autotune.problem.layer import Layer, Problem, Stage, gemm_dims
from autotune.problem.models import family_of
from autotune.protocol.backend import CompileRefused, Work
from autotune.protocol.legality import require_layout
from autotune.protocol.registry import Registration
from autotune.results import Compiled, LayerConfig, StaticFacts
from autotune.space.config import Config
from autotune.space.read import shipped_spaces
from autotune.space.space import BoundSpace, Space


@dataclass(frozen=True)
class EngineBackend:
    """One engine's kernel at one dtype."""

    row: Row

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def engine(self) -> str:
        """`sglang` or `vllm`."""
        return self.row.engine.name

    @property
    def quantisation(self) -> Quantisation:
        """What the engine's file is looked for by."""
        return self.row.quantisation

    @property
    def computes(self) -> Computes:
        """What the kernel takes at this dtype."""
        return replace(self.row.dtype.computes, spread=self.row.engine.spread)

    def fused(self, family: str, experts: int) -> int:
        """Shared experts that the engine counts as routed ones: see `protocol.legality.FusesShared`."""
        return self.row.engine.fused(family, experts, self.row.dtype.selector)

    def looked_for(self, layer: Layer, scheme: Scheme) -> str:
        """The names under which the engine looks, where the checkpoint's blocks are in them."""
        if scheme.scales is not Scales.BLOCK or scheme.block is None:
            return ""
        engine = self.row.engine
        fused = self.fused(family_of(layer.model), layer.experts)
        more = f" and E={layer.experts + fused}, its shared expert counted in" if fused else ""
        sides = list(scheme.block)
        return (
            f"With such a checkpoint {engine.title} looks for files with block_shape={sides}{more}: what is"
            " tuned here is read by nobody"
        )

    @property
    def runtime(self) -> str:
        """The engine's kernel on the device."""
        return f"autotune.engines.runtime:make_runtime({self.name})"

    @property
    def one_config(self) -> bool:
        """vLLM's file has one entry for both GEMMs; SGLang has a file for each."""
        return self.row.engine.one_config

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        require_layout(self.name, self.computes, layer)
        return _spaces(self.row.spaces)[stage].at(layer, tokens, device)

    def default(self, layer: Layer, tokens: int, device: Device) -> LayerConfig:
        """What the engine does at so many tokens without a file."""
        return LayerConfig(*(self.space(layer, tokens, stage, device).default for stage in Stage))

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        from autotune.engines.shipped import shipped_config

        space = self.space(layer, tokens, stage, device)
        shipped = shipped_config(self.row, layer, tokens, stage, device)
        if shipped is None:
            return {}
        config = space.complete({name: value for name, value in shipped.items() if name in space.default})
        return {"published": config} if _offered(space, config) else {}

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        # The engines' kernels take sizes that depend on the tokens as arguments that Triton specialises on.
        return f"{self.name}/{layer.key}/{stage}/m{tokens}/{config.key}"

    def environment(self, config: Config) -> Mapping[str, str]:
        return {}

    def source_digest(self) -> str:
        from autotune.engines.kernels import kernel_digest

        return kernel_digest(self.row.engine)

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        """Weights once, activations once, outputs once."""
        # Where the launch picks the tile, 64 by 32 stands for it.
        tile_m, tile_n, tile_k = (
            int(str(config[name] or usual))
            for name, usual in (("tile_m", 16), ("tile_n", 64), ("tile_k", 32))
        )
        n, k = gemm_dims(problem.layer, stage)
        slots = problem.expected_slots()
        blocks = min(slots, problem.expected_experts() + slots // tile_m)
        rows = problem.expected_tokens() if stage is Stage.STAGE1 else slots
        weights, a_bytes = self.row.dtype.weight_bytes, self.row.dtype.activation_bytes
        stages = config["num_stages"]
        return Work(
            bytes_moved=weights.read(problem, stage) + rows * k * a_bytes + 2 * slots * n,
            workgroups=blocks * -(-n // tile_n),
            bytes_in_flight=tile_n
            * min(tile_k, k)
            * weights.weight
            * max(1, (int(str(stages)) if stages else 3) - 1),
        )

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        from autotune.engines.kernels import compile_engine_kernel

        def at(count: int) -> tuple[str, StaticFacts]:
            return compile_engine_kernel(self.row, layer, count, stage, config, device)

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

        calls = load_engine(self.row, device.runtime, device.arch)
        return calls.serves(tokens, layer.top_k, layer.experts)


def _offered(space: BoundSpace, config: Config) -> bool:
    return all(config[param.name] in param.values for param in space.params) and space.is_legal(config)


@cache
def _spaces(folder: str) -> Mapping[Stage, Space]:
    return shipped_spaces(folder)


def registrations(package: str, rows: Iterable[Row], engine: Registration) -> tuple[Registration, ...]:
    """A backend a row.

    Args:
        package: the engine's, whose `backend` makes a backend of a row's name.
        engine: what is the same in all rows.
    """
    return tuple(
        replace(
            engine,
            name=row.name,
            kernels=f"{package}:backend({row.name})",
            weights=row.dtype.weight_bytes,
        )
        for row in rows
    )
