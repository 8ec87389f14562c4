"""Backend `aiter`, published generation: knobs are environment variables, kernels are FlyDSL's a1d8312."""

import hashlib
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from autotune.backends.aiter.knobs import LDS_VARIABLE, effective, gate, stage_of, tile
from autotune.backends.aiter.pack import flydsl_misfit
from autotune.backends.aiter.source import find_package, require_published
from autotune.backends.flydsl.backend import compile_request, work_of
from autotune.backends.flydsl.compiler import Unsupported
from autotune.backends.flydsl.request import GATES, Request, whole
from autotune.backends.flydsl.tree import FlydslTree, TreeGeneration, find_tree
from autotune.backends.flydsl.wheel import flydsl_python, wheel_version
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.problem.arithmetic import W4A8, Computes
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.backend import Listing, Work
from autotune.protocol.legality import require_layout
from autotune.protocol.registry import weight_bytes
from autotune.results import Compiled, StaticFacts
from autotune.space.config import UNSET, Config, Value
from autotune.space.read import shipped_spaces
from autotune.space.space import BoundSpace, Space

# What was published for 40 sequences: FLYDSL_MOE_STAGE1_SCHED=0 and AITER_FLYDSL_STAGE2_TILE_K=256.
_PUBLISHED: Mapping[Stage, Mapping[str, Value]] = {
    Stage.STAGE1: {"sched": False},
    Stage.STAGE2: {"tile_k": 256},
}


class Aiter:
    """AITER 511df6a or b5757d6 over the FlyDSL tree that `DSL2_ROOT` names."""

    name = "aiter"
    runtime = "autotune.backends.aiter.runtime:make"
    computes = Computes(
        "INT4 weights, a scale per channel, times INT8 activations by token",
        W4A8,
        strict=True,
        layout=flydsl_misfit,
    )

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        require_layout(self.name, self.computes, layer)
        require_published()
        return spaces()[stage].at(layer, tokens, device)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        space = self.space(layer, tokens, stage, device)
        published = space.complete(_PUBLISHED[stage])
        return {"published": published} if space.is_legal(published) else {}

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        # What is unset is named by what it comes to: written out, the same number is the same kernel.
        return f"{layer.key}/{stage}/{effective(config).key}"

    def environment(self, config: Config) -> Mapping[str, str]:
        # Only the gates need a process of their own: all else is read at every call.
        return gate(config)

    def source_digest(self) -> str:
        tree = _published_tree()
        return (
            f"aiter {aiter_digest()} over FlyDSL {tree.digest[:16]}, flydsl {wheel_version(flydsl_python())}"
        )

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        return work_of(request_of(problem.layer, stage, config, ""), problem, weight_bytes(self.name))

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        started = time.perf_counter()
        try:
            return self.listing(layer, tokens, stage, config, device).compiled
        except Unsupported:
            if not Path("/dev/kfd").exists():
                raise  # an estimate needs the facts
            # The image's own FlyDSL may be older than any wheel that we can ask: the GPU will tell.
            unknown = hashlib.sha256(self.artefact_key(layer, tokens, stage, config).encode()).hexdigest()
            return Compiled(f"not compiled {unknown}", StaticFacts(), time.perf_counter() - started)

    def listing(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Listing:
        request = request_of(layer, stage, config, device.arch)
        # Equal code over another number of blocks is another launch.
        return compile_request(request, device, config.get("grid_trim"))


def request_of(layer: Layer, stage: Stage, config: Config, arch: str) -> Request:
    """The kernel that AITER would ask FlyDSL for."""
    assert stage_of(config) is stage
    environment = {} if config["sched"] is UNSET else {GATES[stage]: str(int(bool(config["sched"])))}
    if config.get("lds128") is not UNSET:
        environment[LDS_VARIABLE] = str(int(bool(config["lds128"])))
    return Request(
        *(_published_tree(), layer, stage, arch, whole(config, "tile_m")),
        tile_n=tile(stage, config, "tile_n"),
        tile_k=tile(stage, config, "tile_k"),
        mode="atomic" if config.get("mode") is UNSET else str(config["mode"]),
        environment=environment,
    )


def aiter_digest() -> str:
    """The start of SHA-256 over the module that we call, hex; `none` where AITER is not here."""
    package = find_package()
    if package is None:
        return "none"
    return hashlib.sha256((package / "fused_moe.py").read_bytes()).hexdigest()[:16]


def _published_tree() -> FlydslTree:
    tree = find_tree()
    if tree.generation is not TreeGeneration.PUBLISHED:
        raise UserError(
            f"{tree.root} is of generation {tree.generation}, which this AITER cannot load: set DSL2_ROOT to"
            " FlyDSL a1d8312 (feature/w4a8-moe-port-rebased), or use --backend flydsl"
        )
    return tree


@cache
def spaces() -> Mapping[Stage, Space]:
    """The shipped spaces by stage."""
    return shipped_spaces("aiter/published")
