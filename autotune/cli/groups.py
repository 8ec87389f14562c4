"""Options that go together, and the library objects that they stand for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.cli.options import (
    Cold,
    Ep,
    FlydslPython,
    FlydslRoot,
    FusedShared,
    GpuIndex,
    MeasureSeed,
    ModelConfig,
    ModelName,
    Requantised,
    Rounds,
    SharedGpu,
    Tp,
    show_only,
)
from autotune.errors import UserError
from autotune.problem import DEFAULT_MODEL

if TYPE_CHECKING:
    from autotune.measure.settings import MeasureSettings
    from autotune.problem.layer import Layer, Problem
    from autotune.problem.models import Model


@dataclass(frozen=True)
class LayerOptions:
    """The options that say which layer is meant."""

    model: ModelName = DEFAULT_MODEL
    model_config: ModelConfig = None
    tp: Tp = 8
    ep: Ep = 1
    fused_shared_experts: FusedShared = None
    requantised: Requantised = False

    def described(self) -> "Model":
        """The model, before anything is split.

        Raises:
            UserError: there is no such preset, or its file cannot be.
        """
        from autotune.problem.models import from_hf_config, preset

        model = from_hf_config(self.model_config) if self.model_config else preset(self.model)
        return model.requantised() if self.requantised else model

    def layer(self, backend: str | None) -> "Layer":
        """The layer.

        Args:
            backend: that must compute it; None: nothing is computed.

        Raises:
            UserError: it cannot be, or the backend does not compute it.
        """
        from autotune.problem.layer import Layer
        from autotune.protocol.legality import fuses_shared, require_computed
        from autotune.protocol.registry import load_backend

        described = self.described()
        fused = self.fused_shared_experts
        if fused is None and backend is not None:
            fused = self.ep == 1 and fuses_shared(load_backend(backend), described)
        if fused:
            if self.ep > 1:
                raise UserError(
                    f"--fused-shared-experts with --ep {self.ep} is not known here: on NVIDIA GPUs SGLang"
                    " does not fuse under expert parallelism, and its layout on AMD's is not measured: leave"
                    " it out"
                )
            described = described.with_fused_shared_experts()
        layer = Layer.of(described, self.tp, self.ep)
        if backend is not None:
            require_computed(load_backend(backend), backend, layer)
        return layer

    def remarks(self, layer: "Layer", backend: str) -> list[str]:
        """What the user should know of the layer that was made of the options, a sentence each."""
        from autotune.problem.models import FUSED_SHARED
        from autotune.protocol.legality import fused_by_default
        from autotune.protocol.registry import load_backend

        told = []
        if layer.ep > 1:
            told.append(
                f"{layer.parallel}: a GPU has {layer.experts} of {layer.routed} experts, {layer.inter_dim}"
                " wide, and the tokens of all GPUs reach it."
            )
        more = fused_by_default(load_backend(backend), layer)
        if layer.model.endswith(FUSED_SHARED) and self.fused_shared_experts is None:
            told.append(
                f"The engine counts the shared expert in by itself: E={layer.experts}, top-k {layer.top_k};"
                " --no-fused-shared-experts tunes the layer without it."
            )
        elif more:
            told.append(
                "The engine counts the shared expert in unless it is told not to, and asks for"
                f" E={layer.experts + more}, top-k {layer.top_k + more}: --fused-shared-experts tunes that"
                " layer."
            )
        return told


@dataclass(frozen=True)
class FlydslOptions:
    """The options that say where FlyDSL is; their callbacks tell the backends, as variables."""

    flydsl_root: FlydslRoot = None
    flydsl_python: FlydslPython = None


@dataclass(frozen=True)
class MeasuringOptions:
    """The options that say how is measured."""

    device: GpuIndex = None
    cold: Cold = 2.0
    shared_gpu: SharedGpu = False
    rounds: Rounds = 32
    seed: MeasureSeed = 0

    def settings(self, min_gain: float = 0.01) -> "MeasureSettings":
        """What a measurement is told; the GPU of `--device` is the only one that workers see from now on.

        Raises:
            UserError: there is no such GPU.
        """
        from autotune.measure.settings import MeasureSettings

        show_only(self.device)
        rounds = self.rounds + self.rounds % 2  # a pair has one routing, the candidates in both orders
        return MeasureSettings(
            seed=self.seed,
            cold=self.cold,
            judge_rounds=rounds,
            min_gain=min_gain,
            shared_gpu=self.shared_gpu,
        )


def make_problems(layer: "Layer", shape: str, concurrency: str, routing: str) -> "list[Problem]":
    """The problems that the shape options describe.

    Raises:
        UserError: one cannot be.
    """
    from autotune.problem.layer import parse_concurrency, parse_shapes, problems
    from autotune.problem.routing import Routing

    return problems(layer, parse_shapes(shape), parse_concurrency(concurrency), Routing.parse(routing))
