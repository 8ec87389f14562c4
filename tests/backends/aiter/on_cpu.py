"""The adapter over the stand-in AITER, on the CPU: loaded by name in real measure workers."""

import os

import torch

from autotune.backends.aiter.knobs import CACHE_VARIABLE
from autotune.backends.aiter_runtime import AiterRuntime
from autotune.measure.machine import CpuMachine
from autotune.problem import Layer, Problem

LAYER = Layer("tiny", model_dim=512, inter_dim=256, experts=8, top_k=2, tp=1)
PROBLEM = Problem(LAYER, verify_tokens=4)
NAME = "tests.backends.aiter.on_cpu:make"
CARELESS = "tests.backends.aiter.on_cpu:make_careless"
SHARED_CACHE_VARIABLE = "CARELESS_CACHE"


def make() -> AiterRuntime:
    torch.set_num_threads(1)
    return AiterRuntime(CpuMachine())


def make_careless() -> AiterRuntime:
    """Without a cache folder for each gate: what every process would do by itself."""
    runtime = make()
    os.environ[CACHE_VARIABLE] = os.environ[SHARED_CACHE_VARIABLE]
    return runtime
