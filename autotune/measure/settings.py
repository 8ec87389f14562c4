"""Settings of measuring that a user may choose; one frozen value that crosses to the worker processes."""

from dataclasses import dataclass, replace

from autotune.results import SHARED


@dataclass(frozen=True)
class MeasureSettings:
    """Conditions and limits of every measurement.

    Attributes:
        seed: of weights, activations and routings. All candidates see the same ones.
        cold: bytes touched between two uses of one expert's weights exceed this many last-level
            caches; 0 measures hot, with every launch on the same weights and routing.
        steps: launches, each with its own routing, that one pass has at least.
        layer_steps: the same of a pass of layers in a search, which launches five kernels a step.
        target_rse: a window ends when the relative standard error of its median is below this.
        min_samples: samples a window has at least.
        min_sample_us: microseconds that one sample lasts at least: hundreds of times an event's
            resolution (0.5 us on CUDA, 1 us on HIP).
        window_s: seconds after which a window ends, precise or not.
        warmup_s: seconds after which warming up ends, settled or not.
        poor: times the fastest so far from which a candidate's first few passes are enough: no
            warm-up brings it near. Infinity: never.
        poor_layer: the same of a layer, by its time over the default's.
        timeout_s: seconds after which a request counts as a hang and its worker is killed.
        prepare_timeout_s: the same for a worker's start: device context, weights, first compile.
        min_gain: least gain over the default that a winner must be sure to have.
        select_rounds: rounds with all finalists, which pick the one that is put to the test; even.
        judge_rounds: rounds that decide between it and the default, on yet other routings; even.
        resamples: bootstrap resamples of an interval.
        shared_gpu: measure beside whoever else is on the GPU, and say so in the conditions. False: what was
            measured beside others is put off until the GPU is quiet.
        patience_s: seconds of unbroken disturbance after which a measurement is given up.
    """

    seed: int = 0
    cold: float = 2.0
    steps: int = 32
    layer_steps: int = 16
    target_rse: float = 0.005
    min_samples: int = 10
    min_sample_us: float = 300.0
    window_s: float = 0.15
    warmup_s: float = 0.3
    poor: float = 1.2
    poor_layer: float = 1.1
    timeout_s: float = 60.0
    prepare_timeout_s: float = 300.0
    min_gain: float = 0.01
    select_rounds: int = 8
    judge_rounds: int = 32
    resamples: int = 10_000
    shared_gpu: bool = False
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        if self.cold < 0 or self.steps < 1 or self.min_samples < 2:
            raise ValueError("cold >= 0, steps >= 1 and min_samples >= 2 are required")
        if self.poor <= 1:
            raise ValueError("poor is above 1: a candidate near the fastest needs a window of its own")
        if self.select_rounds % 2 or self.judge_rounds % 2 or min(self.select_rounds, self.judge_rounds) < 2:
            raise ValueError("rounds come in pairs of opposite order: give even numbers from 2")

    @property
    def decides(self) -> bool:
        """Whether a final under these conditions makes a winner: serving finds its weights cold."""
        return self.cold >= 1

    @property
    def layer_key(self) -> str:
        """The same of a search's layers."""
        return replace(self, steps=self.layer_steps).key

    @property
    def key(self) -> str:
        """Canonical text of what changes a time; unlike texts are unlike conditions, never mixed.

        Limits on time are left out: they change how sure a time is, not what it measures.
        """
        weights = f"cold>{self.cold:g}xLLC" if self.cold else "hot"
        return f"v1;{weights};steps>={self.steps};seed={self.seed}{SHARED if self.shared_gpu else ''}"
