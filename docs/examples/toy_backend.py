"""A backend in sixty lines: the reference layer on the CPU, with a knob that makes it slower."""

import hashlib

from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Problem, Stage, WeightBytes
from autotune.protocol.backend import CompileRefused, Work
from autotune.results import Compiled, StaticFacts
from autotune.space.config import Config
from autotune.space.read import parse_space
from autotune.space.space import BoundSpace

_SPACE = """
backend = "toy_backend:Toy"
generation = "one"
stage = "STAGE"
doc = "the reference, run several times over"
[params.repeat]
values = [1, 2, 3]
default = 2
doc = "how often the same is computed"
[params.lanes]
values = ["unset", 8, 16]
default = "unset"
doc = "does nothing; one of its values does not compile"
[[rules]]
name = "slow_only_by_default"
require = "lanes == unset or repeat <= 2"
reason = "shows what a rule looks like"
"""

WEIGHTS = WeightBytes(0.5, row=4.0)  # INT4 with a float32 scale a row: bytes


class Toy:
    """Every method is what the search asks of a family of kernels; see `autotune.protocol.backend`."""

    name = "toy_backend:Toy"  # what --backend is given
    runtime = "toy_runtime:make"

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        return parse_space(_SPACE.replace("STAGE", stage)).at(layer, tokens, device)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> dict[str, Config]:
        return {"published": Config({"repeat": 1, "lanes": None})}  # tried after the default

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        return f"{layer.key}/{stage}/{config.key}"  # one binary for every number of tokens

    def environment(self, config: Config) -> dict[str, str]:
        return {}  # no variable that a process must have before it starts

    def source_digest(self) -> str:
        return hashlib.sha256(_SPACE.encode()).hexdigest()

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        repeat = config["repeat"]
        assert isinstance(repeat, int)
        return Work(repeat * WEIGHTS.read(problem, stage), workgroups=304, bytes_in_flight=65536)

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        if config["lanes"] == 16:
            raise CompileRefused("no lanes=16 on this machine")
        code = hashlib.sha256(f"{stage} {config['repeat']}".encode())  # lanes=8 is the same program as unset
        return Compiled(code.hexdigest(), StaticFacts(workgroups_per_cu=1), seconds=0.0)
