"""The runtime over stand-in trees, on the CPU: loaded by name in real measure workers."""

import torch

from autotune.backends.flydsl.runtime import FlydslRuntime
from autotune.measure.machine import CpuMachine
from autotune.problem.layer import Layer, Problem

LAYER = Layer("tiny", model_dim=512, inter_dim=256, experts=8, top_k=2, tp=1)
PROBLEM = Problem(LAYER, verify_tokens=4)
NAME = "tests.backends.flydsl.on_cpu:make"


def make() -> FlydslRuntime:
    torch.set_num_threads(1)
    return FlydslRuntime(CpuMachine())
