"""Backend `flydsl`; see the package."""

import time
from collections.abc import Mapping
from functools import cache

from autotune.backends.aiter.knobs import PUBLISHED
from autotune.backends.aiter.pack import flydsl_misfit
from autotune.backends.flydsl.compiler import LdsOverflow, assembly
from autotune.backends.flydsl.request import THREADS, Request, gate_environment
from autotune.backends.flydsl.tree import TreeGeneration, find_tree
from autotune.backends.flydsl.wheel import compile_options, matching_wheel
from autotune.compile.isa import machine_code_hash, static_facts
from autotune.compile.occupancy import with_occupancy
from autotune.machine.devices import Device
from autotune.problem.arithmetic import W4A8, Computes
from autotune.problem.layer import Layer, Problem, Stage, WeightBytes, gemm_dims
from autotune.protocol.backend import Listing, Work
from autotune.protocol.legality import require_layout
from autotune.protocol.process_knobs import ProcessKnobs
from autotune.protocol.registry import weight_bytes
from autotune.results import Compiled, StaticFacts
from autotune.space.config import Config, Value
from autotune.space.read import shipped_spaces
from autotune.space.space import BoundSpace, Space

# FLYDSL_MOE_STAGE1_SCHED=0 and AITER_FLYDSL_STAGE2_TILE_K=256 over the defaults of 40 sequences with AITER.
_PUBLISHED: Mapping[Stage, Mapping[str, Value]] = {
    Stage.STAGE1: {"sched": False},
    Stage.STAGE2: {"tile_k": 256},
}


class Flydsl:
    """The kernels of the tree that `DSL2_ROOT` names, of either generation."""

    name = "flydsl"
    runtime = "autotune.backends.flydsl.runtime:make"
    computes = Computes(
        "INT4 weights, a scale per channel, times INT8 activations by token",
        W4A8,
        strict=True,
        layout=flydsl_misfit,
    )

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        require_layout(self.name, self.computes, layer)
        tree = find_tree()
        options = compile_options(matching_wheel(tree))
        return _spaces(tree.generation)[stage].at(layer, tokens, device, options)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        space = self.space(layer, tokens, stage, device)
        if find_tree().generation is not TreeGeneration.PUBLISHED:
            return {}  # nothing was published for these
        seeds = {"published": space.complete(_PUBLISHED[stage])}
        if stage is Stage.STAGE1:
            # The tile that the gate was published with, which is the default of a block of 32 and more rows.
            seeds["published tile"] = space.complete({"sched": False, "tile_k": 128})
        return {label: config for label, config in seeds.items() if space.is_legal(config)}

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        # The token count is a run-time argument: one binary serves all.
        return f"{layer.key}/{stage}/{config.key}"

    def environment(self, config: Config) -> Mapping[str, str]:
        if "sched" not in config:
            return {}
        # A stage-1 config has no mode.
        return gate_environment(Stage.STAGE2 if "mode" in config else Stage.STAGE1, config["sched"])

    def source_digest(self) -> str:
        tree = find_tree()
        return f"{tree.generation} {tree.digest[:16]} flydsl {matching_wheel(tree)}"

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        request = Request.of(find_tree(), problem.layer, stage, config, "")
        return work_of(request, problem, weight_bytes(self.name))

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        return self.listing(layer, tokens, stage, config, device).compiled

    def listing(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Listing:
        return compile_request(Request.of(find_tree(), layer, stage, config, device.arch), device)


def knobs_of(kernel_source: str) -> ProcessKnobs | None:
    """Main's kernels are called with parameters, which no engine reads from its environment."""
    return PUBLISHED if kernel_source.startswith(TreeGeneration.PUBLISHED) else None


def compile_request(request: Request, device: Device, *launch: object) -> Listing:
    """Compiles a request and reads its facts.

    Args:
        launch: whatever else than code and grid makes two launches differ.

    Raises:
        CompileRefused: it does not compile.
    """
    started = time.perf_counter()
    try:
        code = assembly(request)
    except LdsOverflow as overflow:
        # The published generation ends here, main goes on; with the fact known both are refused alike.
        facts = StaticFacts(lds_bytes=overflow.lds_bytes)
        return Listing("", Compiled(f"no code: {overflow}", facts, time.perf_counter() - started))
    facts = with_occupancy(static_facts(code), THREADS // device.wave_size, device)
    binary = machine_code_hash(code, request.workgroups_n, THREADS, *launch)
    return Listing(code, Compiled(binary, facts, time.perf_counter() - started))


def work_of(request: Request, problem: Problem, weights: WeightBytes) -> Work:
    """Weights once, activations once, outputs once; what `reduce` writes, reads and clears besides."""
    layer, stage = problem.layer, request.stage
    n, k = gemm_dims(layer, stage)
    slots = problem.tokens * layer.top_k
    blocks = min(float(slots), problem.expected_experts() + slots // request.tile_m)
    if stage is Stage.STAGE1:
        activations, out, rows = problem.tokens * k, 2 * slots * layer.inter_dim, 2 * request.columns
    else:
        # Atomics move every slot's row; reduce clears, writes and reads a buffer of them, then writes tokens.
        moved = slots if request.mode == "atomic" else 3 * slots + problem.tokens
        activations, out, rows = slots * k, 2 * moved * n, request.columns
    return Work(
        bytes_moved=weights.read(problem, stage) + activations + out,
        workgroups=blocks * request.workgroups_n,
        # The next K tile of weights is loaded while the present one is multiplied.
        bytes_in_flight=rows * min(request.tile_k, k) / 2,
    )


@cache
def _spaces(generation: TreeGeneration) -> Mapping[Stage, Space]:
    return shipped_spaces(f"flydsl/{generation}")
