"""A request to a compile worker: one kernel's parameters, hints and gates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.backends.flydsl.tree import FlydslTree, TreeGeneration
from autotune.problem.layer import Layer, Stage
from autotune.space.config import UNSET, Config

GATES = {stage: f"FLYDSL_MOE_{stage.name}_SCHED" for stage in Stage}
"""The scheduler-hint gates of the published generation (FlyDSL a1d8312, kernels/moe_gemm_2stage.py:1059 and
2452): read while a kernel is traced, on unless `1`, `true`, `True`, `YES` or `yes` says so, on when unset."""

THREADS = 256
"""Of a workgroup, in both generations."""

_TOKENS = 4  # no kernel depends on it: it is an argument at run time


@dataclass(frozen=True)
class Request:
    """One kernel to compile.

    Attributes:
        mode: stage 2's way to sum over experts: `atomic` or `reduce`.
        hints: FlyDSL's compile hints: `waves_per_eu`, `llvm_options`.
        environment: the gates.
        k_wave: waves that share a tile's K; AITER's kernels only.
        cache_hint: of weight loads, None: the kernel's own; AITER's kernels only.
    """

    tree: FlydslTree
    layer: Layer
    stage: Stage
    arch: str
    tile_m: int
    tile_n: int
    tile_k: int
    mode: str = "atomic"
    hints: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    k_wave: int = 1
    cache_hint: int | None = None

    @classmethod
    def of(cls, tree: FlydslTree, layer: Layer, stage: Stage, config: Config, arch: str) -> "Request":
        """The kernel that a config of the `flydsl` spaces names."""
        tile_m, tile_n, tile_k = (whole(config, name) for name in ("tile_m", "tile_n", "tile_k"))
        return cls(
            *(tree, layer, stage, arch, tile_m, tile_n, tile_k),
            mode=str(config.get("mode", "atomic")),
            hints=_hints(config),
            environment=gate_environment(stage, config.get("sched")),
            k_wave=whole(config, "k_wave") if "k_wave" in config else 1,
            cache_hint=None if config.get("b_nt") is UNSET else whole(config, "b_nt"),
        )

    def json(self) -> dict[str, Any]:
        """The fields as the worker reads them."""
        layer = self.layer
        return {
            "root": str(self.tree.root),
            "generation": str(self.tree.generation),
            "stage": 1 if self.stage is Stage.STAGE1 else 2,
            "arch": self.arch,
            "model_dim": layer.model_dim,
            "inter_dim": layer.inter_dim,
            "experts": layer.experts,
            "topk": layer.top_k,
            "tokens": _TOKENS,
            "tile_m": self.tile_m,
            "tile_n": self.tile_n,
            "tile_k": self.tile_k,
            "mode": self.mode,
            "hints": dict(self.hints),
            "k_wave": self.k_wave,
            "b_nt": self.cache_hint,
        }

    @property
    def columns(self) -> int:
        """Output columns of a workgroup.

        FlyDSL main's stage 1 halves tile_n for INT4, down to 64 (kernels/moe/moe_gemm_2stage/gemm1.py).
        """
        if self.stage is Stage.STAGE1 and self.tree.generation is TreeGeneration.MAIN:
            return max(self.tile_n // 2, 64)
        return self.tile_n

    @property
    def workgroups_n(self) -> int:
        """Workgroups that share a block's columns."""
        width = self.layer.inter_dim if self.stage is Stage.STAGE1 else self.layer.model_dim
        return width // self.columns


def whole(config: Config, name: str) -> int:
    """A knob that is a whole number."""
    value = config[name]
    assert isinstance(value, int)
    assert not isinstance(value, bool)
    return value


def gate_environment(stage: Stage, sched: object) -> dict[str, str]:
    """The variable of a stage's gate; unset leaves the tree's default, which is on."""
    return {} if sched is UNSET else {GATES[stage]: "1" if sched else "0"}


def _hints(config: Config) -> dict[str, Any]:
    """Compile hints from the knobs of FlyDSL main's spaces; unset ones are left to LLVM."""
    options: dict[str, Any] = {}
    if config.get("sched_strategy") is not UNSET:
        options["amdgpu-sched-strategy"] = config["sched_strategy"]
    if config.get("misched") is not UNSET:
        options["enable-misched"] = config["misched"]
    if config.get("post_misched") is not UNSET:
        options["enable-post-misched"] = config["post_misched"]
    if config.get("relaxed_occupancy") is not UNSET:
        options["amdgpu-schedule-relaxed-occupancy"] = config["relaxed_occupancy"]
    hints: dict[str, Any] = {"llvm_options": options} if options else {}
    if config.get("waves_per_eu") is not UNSET:
        hints["waves_per_eu"] = config["waves_per_eu"]
    return hints
