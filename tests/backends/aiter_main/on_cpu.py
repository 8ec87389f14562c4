"""The adapters over the stand-in AITER main, on the CPU: loaded by name in real measure workers."""

from dataclasses import replace

import torch

from autotune.backends.aiter_main.w4a8_runtime import CkRuntime
from autotune.backends.aiter_main.w4a16_runtime import GroupedRuntime
from autotune.machine.fingerprint import Fingerprint
from autotune.measure.machine import CpuMachine
from autotune.problem.layer import Layer, Problem
from autotune.protocol.runtime import LogicalWeights

LAYER = Layer("tiny", model_dim=256, inter_dim=128, experts=6, top_k=2, tp=1)
PROBLEM = Problem(LAYER, verify_tokens=3)
HERE = "tests.backends.aiter_main.on_cpu"
CK, MISPACKED, GROUPED, GFX942 = (f"{HERE}:make_{name}" for name in ("ck", "mispacked", "grouped", "gfx942"))


def make_ck() -> CkRuntime:
    torch.set_num_threads(1)
    return CkRuntime(CpuMachine())


class Mispacked(CkRuntime):
    """Weights in the layout of the other format, which has as many bytes."""

    def pack(self, weights: LogicalWeights) -> LogicalWeights:
        from autotune.backends.aiter.pack import flydsl_weights

        right = super().pack(weights)
        wrong = (flydsl_weights(w).view(torch.int32) for w in (weights.w1, weights.w2))
        return LogicalWeights(next(wrong), right.w1_scale, next(wrong), right.w2_scale)


def make_mispacked() -> Mispacked:
    torch.set_num_threads(1)
    return Mispacked(CpuMachine())


def make_grouped() -> GroupedRuntime:
    torch.set_num_threads(1)
    return GroupedRuntime(CpuMachine())


class Gfx942(CpuMachine):
    """The host under the card's name."""

    def fingerprint(self, backend: str, kernel_source: str) -> Fingerprint:
        return replace(super().fingerprint(backend, kernel_source), arch="gfx942")


def make_gfx942() -> GroupedRuntime:
    torch.set_num_threads(1)
    return GroupedRuntime(Gfx942())
