"""The adapter over the stand-in AITER, on the CPU: loaded by name in real measure workers."""

import os
import sys
from collections.abc import Sequence

import torch

from autotune.backends.aiter.backend import Aiter
from autotune.backends.aiter.knobs import CACHE_VARIABLE
from autotune.backends.aiter.runtime import AiterRuntime
from autotune.machine.devices import Device
from autotune.measure.machine import CpuMachine
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.registry import Registration
from autotune.protocol.runtime import Launch, Replay
from autotune.results import Compiled, StaticFacts
from autotune.space.config import Config

LAYER = Layer("tiny", model_dim=512, inter_dim=256, experts=8, top_k=2, tp=1)
PROBLEM = Problem(LAYER, verify_tokens=4)
NAME = "tests.backends.aiter.on_cpu:make"
CARELESS = "tests.backends.aiter.on_cpu:make_careless"
SHARED_CACHE_VARIABLE = "CARELESS_CACHE"


class AiterOnCpu(Aiter):
    """The backend as on the card: an AITER that compiles its kernels itself, whatever wheel is here."""

    name = "tests.backends.aiter.on_cpu:REGISTRATION"
    runtime = "tests.backends.aiter.on_cpu:make_counted"

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        key = self.artefact_key(layer, tokens, stage, config)
        return Compiled(f"not compiled {key}", StaticFacts(), 0.0)


REGISTRATION = Registration(
    AiterOnCpu.name,
    kernels="tests.backends.aiter.on_cpu:AiterOnCpu",
    exporter="autotune.backends.aiter.export:EnvExporter",
    knobs="autotune.backends.aiter.knobs:knobs_of",
)


def make() -> AiterRuntime:
    torch.set_num_threads(1)
    return AiterRuntime(CpuMachine())


class CountedMachine(CpuMachine):
    """Its time is what the stand-in kernels say that they cost: a busy test machine changes nothing."""

    def replay(self, launches: Sequence[Launch]) -> Replay:
        return CountedReplay(launches)


class CountedReplay:
    """Runs a pass once, however many samples are asked for."""

    method = "events"

    def __init__(self, launches: Sequence[Launch]) -> None:
        self._launches = launches

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        before = self._spent()
        for launch in self._launches:
            launch.run()
        return [self._spent() - before] * samples

    def close(self) -> None:
        pass

    @staticmethod
    def _spent() -> float:
        kernels = sys.modules.get("kernels.moe_gemm_2stage")
        return sum(kernels.spent_us.values()) if kernels else 0.0


def make_counted() -> AiterRuntime:
    torch.set_num_threads(1)
    return AiterRuntime(CountedMachine())


def make_careless() -> AiterRuntime:
    """Without a cache folder for each gate: what every process would do by itself."""
    runtime = make()
    os.environ[CACHE_VARIABLE] = os.environ[SHARED_CACHE_VARIABLE]
    return runtime
