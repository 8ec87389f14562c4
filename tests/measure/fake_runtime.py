"""A stand-in for a GPU backend on the CPU: right numbers, deterministic times, and faults on request.

It goes through the same worker, gate, timer, pool and confirmation as a real one. A config's knobs say what
it does:

    us       microseconds a launch that it takes, in thousandths: 10_000 is 10 us
    noise    relative noise of a sample, in thousandths
    moods    every second sample is so many times slower, by the kernel's own nature; unset: none
    drift    how much slower each further sample is, in millionths
    fault    what goes wrong, see `Fault`
    at       token count at which the numbers go wrong; unset: at all

`crowd` puts others on the GPU.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.errors import UserError
from autotune.kernels.reference import layer_reference, stage1_reference, stage2_reference
from autotune.machine.fingerprint import Fingerprint
from autotune.measure.machine import CpuMachine
from autotune.problem.layer import Layer, Stage
from autotune.protocol.runtime import Activations, Launch, LogicalWeights, Output, Replay, Step, Subject, What
from autotune.protocol.runtime import Path as Roundings
from autotune.results import LayerConfig
from autotune.space.config import Config


class Fault(StrEnum):
    """What a candidate may do."""

    NONE = "none"
    RAISE = "raise"
    EXIT = "exit"
    SYSTEM_EXIT = "system_exit"
    ABORT = "abort"
    SIGKILL = "sigkill"
    HANG = "hang"
    OUT_OF_MEMORY = "out_of_memory"
    ILLEGAL_ADDRESS = "illegal_address"
    OVERWRITES_WEIGHTS = "overwrites_weights"
    NOT_FINITE = "not_finite"
    WRONG_TILE = "wrong_tile"
    MISSING_SPLIT = "missing_split"
    UNSCALED_ROW = "unscaled_row"
    UNWRITTEN_ROW = "unwritten_row"
    WRONG_ELEMENT = "wrong_element"
    OUT_OF_BOUNDS = "out_of_bounds"
    FIRST_LAUNCH_ONLY = "first_launch_only"
    DIES_IN_ROUNDS = "dies_in_rounds"
    DIES_IN_LAYERS = "dies_in_layers"
    KILLED_ONCE = "killed_once"
    KILLED_ONCE_IN_ROUNDS = "killed_once_in_rounds"


WRONG_NUMBERS = (
    Fault.NOT_FINITE,
    Fault.WRONG_TILE,
    Fault.MISSING_SPLIT,
    Fault.UNSCALED_ROW,
    Fault.UNWRITTEN_ROW,
    Fault.WRONG_ELEMENT,
    Fault.OUT_OF_BOUNDS,
    Fault.FIRST_LAUNCH_ONLY,
)
DEATHS = (Fault.EXIT, Fault.ABORT, Fault.SIGKILL)


@dataclass(frozen=True)
class FakeLaunch(Launch):
    """A launch that knows how long it takes."""

    config: Config = Config({})  # noqa: RUF009 configs are immutable


class FakeReplay:
    """Times from the config, not from a clock. The noise is seeded by the config: runs repeat exactly."""

    method = "graph"

    def __init__(self, launches: Sequence[Launch]) -> None:
        self._launches = launches
        configs = [launch.config for launch in launches if isinstance(launch, FakeLaunch)]
        self._us = sum(_number(config, "us", 10_000) for config in configs) / 1000
        self._noise = _number(configs[0], "noise", 2) / 1000
        self._drift = _number(configs[0], "drift", 0) / 1e6
        self._moods = _number(configs[0], "moods", 1)
        self._rng = np.random.default_rng(list(configs[0].key.encode()))

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        self._launches[-1].run()
        made = []
        for _ in range(samples):
            FakeMachine.ticks += 1
            mood = self._moods if FakeMachine.ticks % 2 else 1
            slower = (
                FakeMachine.slower
                * mood
                * (1 + self._drift * FakeMachine.ticks)
                * FakeMachine.crowd_factor(self._rng.random())
            )
            made.append(float(self._us * slower * (1 + self._noise * self._rng.standard_normal())))
        return made

    def close(self) -> None:
        pass


class FakeMachine(CpuMachine):
    """A CPU that counts its samples, and can break as a GPU's context does."""

    watched = True
    ticks = 0
    broken = False
    slower = 1.0

    @staticmethod
    def crowd() -> dict[str, Any]:
        """What is now of the others that `crowd` asked for; empty: they are gone, or there were none."""
        others = json.loads(os.environ.get("FAKE_CROWD", "{}"))
        there = others and others["first"] <= FakeMachine.ticks < others["last"]
        return others if there else {}

    @staticmethod
    def crowd_factor(draw: float) -> float:
        others = FakeMachine.crowd()
        return float(others["times"]) if others and draw < others["share"] else 1.0

    def identity(self) -> str | None:
        return os.environ.get("FAKE_GPU")

    def early(self) -> str | None:
        early: str | None = self.crowd().get("early")
        return early

    def neighbours(self) -> str | None:
        FakeMachine.ticks += 1  # those who only are there leave, too
        listed: str | None = self.crowd().get("listed")
        return listed

    def synchronize(self) -> None:
        if self.broken:
            raise RuntimeError("an illegal memory access was encountered")

    def replay(self, launches: Sequence[Launch]) -> Replay:
        launches[-1].run()
        return FakeReplay(launches)


class FakeRuntime:
    """See the module."""

    name = "fake"

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.machine = FakeMachine()
        self._weights: list[LogicalWeights] = []

    def kernel_source(self) -> str:
        return "fake"

    def packed_bytes(self, layer: Layer) -> int:
        return layer.experts * layer.model_dim * layer.inter_dim * 3 // 2

    def prepare(self, layer: Layer, weights: LogicalWeights) -> None:
        self._weights = [weights]

    def grow(self, copies: int) -> None:
        self._weights = [self._weights[0]] * copies

    def digest(self) -> int:
        return int(self._weights[0].w1.long().sum() + self._weights[0].w2.long().sum())

    def serves(self, what: What, config: Subject, tokens: int) -> bool:
        return True

    def path(self, what: What, config: Subject) -> Roundings:
        return Roundings(requantised=what is What.LAYER)

    def stage(self, stage: Stage, config: Config, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        def compute(step: Step) -> torch.Tensor:
            weights = self._weights[step.copy]
            if stage is Stage.STAGE1:
                return stage1_reference(inputs.a1, inputs.a1_scale, weights.w1, weights.w1_scale, step.ids)
            a2, a2_scale = inputs.a2.flatten(0, 1), inputs.a2_scale.flatten()
            return stage2_reference(a2, a2_scale, weights.w2, weights.w2_scale, step.ids, step.router)

        return self._made(stage, config, inputs, steps, compute)

    def layer(self, config: LayerConfig, inputs: Activations, steps: Sequence[Step]) -> list[Launch]:
        def compute(step: Step) -> torch.Tensor:
            w = self._weights[step.copy]
            return layer_reference(inputs.hidden, w.w1, w.w2, w.w1_scale, w.w2_scale, step.router, step.ids)

        first, second = config.stage1, config.stage2
        if Fault.DIES_IN_LAYERS in (first.get("fault"), second.get("fault")):
            os.kill(os.getpid(), signal.SIGKILL)
        us = _number(first, "us", 10_000) + _number(second, "us", 10_000)
        worse = first if first.get("fault", "none") != "none" else second
        return self._made(None, worse.replaced(us=us), inputs, steps, compute)

    def _made(
        self,
        stage: Stage | None,
        config: Config,
        inputs: Activations,
        steps: Sequence[Step],
        compute: Callable[[Step], torch.Tensor],
    ) -> list[Launch]:
        tokens, model_dim = inputs.hidden.shape
        slots, inter_dim = inputs.a2.flatten(0, 1).shape
        output = Output.allocate((slots, inter_dim) if stage is Stage.STAGE1 else (tokens, model_dim), "cpu")
        launched = 0

        def run(step: Step) -> None:
            nonlocal launched
            launched += 1
            fault = Fault(str(config.get("fault", "none")))
            if config.get("at") not in (None, tokens):
                fault = Fault.NONE
            self._act(fault, len(steps))
            result = compute(step).bfloat16()
            _spoil(fault, result, output, launched)

        return [
            FakeLaunch(lambda step=step: run(step), output.tensor, guards=output.guards, config=config)  # type: ignore[misc]
            for step in steps
        ]

    def _act(self, fault: Fault, steps: int) -> None:
        if fault is Fault.RAISE:
            raise ValueError("no such tile")
        if fault is Fault.EXIT:
            os._exit(3)
        if fault is Fault.SYSTEM_EXIT:
            sys.exit(3)
        if fault is Fault.ABORT:
            print("Memory access fault by GPU node-1", file=sys.stderr, flush=True)
            os.abort()
        if fault is Fault.SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is Fault.HANG:
            while True:
                time.sleep(0.1)
        if fault is Fault.OUT_OF_MEMORY:
            raise torch.OutOfMemoryError("tried to allocate 512 GiB")
        if fault is Fault.ILLEGAL_ADDRESS:
            FakeMachine.broken = True
            raise RuntimeError("an illegal memory access was encountered")
        if fault is Fault.OVERWRITES_WEIGHTS:
            self._weights[0].w1.add_(1)
        if fault is Fault.DIES_IN_ROUNDS and steps > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is Fault.KILLED_ONCE or (fault is Fault.KILLED_ONCE_IN_ROUNDS and steps > 1):
            mark = Path(os.environ["FAKE_MARKS"], fault.value)  # by the OOM killer, say
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)


def _spoil(fault: Fault, result: torch.Tensor, output: Output, launched: int) -> None:
    """Writes a result, or what a broken kernel would write instead."""
    rows, width = result.shape
    row = rows // 2
    if fault is Fault.FIRST_LAUNCH_ONLY and launched > 1:
        return
    if fault is Fault.UNWRITTEN_ROW:
        keep = [index for index in range(rows) if index != row]
        output.tensor[keep] = result[keep]
        return
    if fault is Fault.NOT_FINITE:
        result[row, 0] = torch.inf
    if fault is Fault.WRONG_TILE:  # the neighbouring tile's columns
        result[row, width // 2 : width // 2 + 16] = result[row, width // 2 - 16 : width // 2].clone()
    if fault is Fault.MISSING_SPLIT:  # a fourteenth of the sum, of one tile
        result[row, :16] *= 1 - 1 / 14
    if fault is Fault.UNSCALED_ROW:  # the neighbouring row's scale: 10 % off
        result[row] *= 1.1
    if fault is Fault.WRONG_ELEMENT:
        result[row, width - 1] = -result[row, width - 1] + result.abs().mean()
    output.tensor.copy_(result)
    if fault is Fault.OUT_OF_BOUNDS:
        output.guards[1][0, 0] = 0.0


def _number(config: Config, knob: str, otherwise: int) -> int:
    value = config.get(knob, otherwise)
    assert isinstance(value, int)
    return value


def make() -> FakeRuntime:
    return FakeRuntime()


def make_counting() -> FakeRuntime:
    """Writes a line to `$FAKE_RUNTIME_STARTS` whenever a worker process makes its runtime."""
    with Path(os.environ["FAKE_RUNTIME_STARTS"]).open("a") as file:
        file.write(f"{os.getpid()} {os.environ.get('FAKE_GATE', '')}\n")
    return FakeRuntime()


def make_dying() -> FakeRuntime:
    """No worker process gets this far."""
    os.kill(os.getpid(), signal.SIGKILL)
    return FakeRuntime()


class FleetMachine(FakeMachine):
    """One of several GPUs, told apart by CUDA_VISIBLE_DEVICES. `$FAKE_FLEET` says what is odd about each.

    slower: times that everything takes; power_cap_w: its limit; falls_after: samples after which it falls off
    the bus and is gone for every later process, of which a file in `$FAKE_MARKS` tells.
    """

    def __init__(self) -> None:
        self.index = os.environ["CUDA_VISIBLE_DEVICES"]
        self.odd: dict[str, Any] = json.loads(os.environ.get("FAKE_FLEET", "{}")).get(self.index, {})
        FakeMachine.slower = self.odd.get("slower", 1.0)
        if self._fallen.exists():
            raise UserError("torch sees no GPU")

    @property
    def _fallen(self) -> Path:
        return Path(os.environ.get("FAKE_MARKS", "/nowhere"), f"fallen-{self.index}")

    def identity(self) -> str | None:
        return f"GPU-fake-{self.index}"

    def fingerprint(self, backend: str, kernel_source: str) -> Fingerprint:
        return replace(
            super().fingerprint(backend, kernel_source), power_cap_w=self.odd.get("power_cap_w", 700)
        )

    def synchronize(self) -> None:
        if FakeMachine.ticks >= self.odd.get("falls_after", 1 << 60):
            self._fallen.touch()
            raise RuntimeError("the GPU has fallen off the bus")


def make_fleet() -> "FakeRuntime":
    runtime = FakeRuntime()
    runtime.machine = FleetMachine()
    return runtime


def crowd(
    *,
    share: float = 0.0,
    times: float = 3.0,
    first: int = 0,
    last: int = 1 << 60,
    listed: str | None = None,
    early: str | None = None,
) -> dict[str, str]:
    """Environment of worker processes in which others are on the GPU.

    Args:
        share, times: of the samples so many are so many times slower.
        first, last: samples of the worker after which they come, and go.
        listed: what the driver says of them; None: it shows nobody.
        early: what is seen of them before anything of the worker's is on the GPU.
    """
    others = {"share": share, "times": times, "first": first, "last": last, "listed": listed, "early": early}
    return {"FAKE_CROWD": json.dumps(others)}


def fake_config(us: float = 10.0, fault: Fault = Fault.NONE, **knobs: int) -> Config:
    """A config that takes `us` microseconds a launch."""
    return Config({"us": round(us * 1000), "fault": fault.value, **knobs})


def with_stages(config: Config) -> LayerConfig:
    """A layer config whose second stage is an ordinary one."""
    return LayerConfig(config, config.replaced(fault=Fault.NONE.value))
