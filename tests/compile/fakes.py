"""A backend whose compiles go wrong in every way; loaded by name in real compile workers."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.backend import CompileRefused, Work
from autotune.results import Compiled, StaticFacts
from autotune.space.config import Config
from autotune.space.read import parse_space
from autotune.space.space import BoundSpace

NAME = "tests.compile.fakes:FaultyBackend"
SPACE = """
backend = "faulty"
generation = "one"
stage = "STAGE"
doc = "for tests"
[params.tile_m]
values = [16, 32]
default = 16
doc = "rows"
[params.width]
values = [1, 2, 3, 4, 5, 6, 7, 8]
default = 4
doc = "the estimate's bytes in flight"
[params.fault]
values = ["none", "refuse", "hang", "abort", "exit", "memory", "spill", "lds", "twin"]
default = "none"
doc = "what goes wrong"
"""


class FaultyBackend:
    """Compiles nothing; `fault` says how it fails, `width` how fast the estimate is."""

    name = NAME

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        folder = Path(os.environ["FAULTY_SPACES"])
        path = folder / f"{stage}.toml"
        if not path.exists():
            path.write_text(SPACE.replace("STAGE", str(stage)))
        return parse_space(path.read_text()).at(layer, tokens, device)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        return {}

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        return f"{layer.key}/{stage}/{config.key}"

    def environment(self, config: Config) -> Mapping[str, str]:
        return {}

    def source_digest(self) -> str:
        return "faulty"

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        width = config["width"]
        assert isinstance(width, int)
        return Work(bytes_moved=1e8, workgroups=304, bytes_in_flight=4096.0 * width)

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        fault = config["fault"]
        if fault == "refuse":
            raise CompileRefused("the tile does not fit")
        if fault == "slow":
            time.sleep(1)
        if fault == "hang":
            time.sleep(600)
        if fault == "abort":
            print("LLVM ERROR: cannot select", file=sys.stderr, flush=True)
            os.abort()
        if fault == "exit":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "killed":  # by the OOM killer, say: once
            mark = Path(os.environ["FAULTY_SPACES"], f"killed {config.key}")
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if fault == "memory":
            bytearray(1 << 40)
        if fault == "bug":
            raise KeyError("a mistake of ours")
        facts = StaticFacts(
            vgprs=64,
            agprs=0,
            spills=9 if fault == "spill" else 0,
            lds_bytes=70_000 if fault == "lds" else 1024,
            workgroups_per_cu=1,
        )
        code = "twin" if fault == "twin" else f"{stage}{config.key}"
        return Compiled(code, facts, 0.001)
