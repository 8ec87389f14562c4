"""A backend: the reference layer, with a knob that makes it slower, registered with all that it brings."""

import hashlib

from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Problem, Stage, WeightBytes
from autotune.protocol.backend import CompileRefused, Work
from autotune.protocol.registry import Registration
from autotune.results import Compiled, StaticFacts
from autotune.space.config import Config
from autotune.space.read import parse_spaces
from autotune.space.space import BoundSpace

SPACE = """
backend = "toy"
generation = "one"
[stages]
stage1 = "gate and up, the reference run several times over"
stage2 = "down, the same"
[params.repeat]
values = [1, 2, 3]
default = 2
doc = "how often the same is computed"
[params.lanes]
values = ["unset", 8, 16]
default = "unset"
doc = "does nothing; one of its values does not compile"
[[rules]]
name = "slow-only-by-default"
require = "lanes == unset or repeat <= 2"
reason = "shows what a rule looks like"
"""
WEIGHTS = WeightBytes(0.5, row=4.0)  # what the kernels read: INT4, and a float32 scale a row

REGISTRATION = Registration(
    "toy",
    kernels="toy:Toy",
    weights=WEIGHTS,
    exporter="toy_serving:ToyExporter",
    verifiers={"toy": "toy_serving:ToyVerifier"},
)


class Toy:
    """Every method is what the search asks of a family of kernels; see `autotune.protocol.backend`."""

    name = "toy"
    runtime = "toy_runtime:make"

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        return parse_spaces(SPACE)[stage].at(layer, tokens, device)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> dict[str, Config]:
        return {"published": Config({"repeat": 1, "lanes": None})}  # tried after the default

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        return f"{layer.key}/{stage}/{config.key}"  # one binary for every number of tokens

    def environment(self, config: Config) -> dict[str, str]:
        return {}  # no variable that a process must have before it starts

    def source_digest(self) -> str:
        return hashlib.sha256(SPACE.encode()).hexdigest()

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        repeat = int(str(config["repeat"]))
        return Work(repeat * WEIGHTS.read(problem, stage), workgroups=304, bytes_in_flight=65536)

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        if config["lanes"] == 16:
            raise CompileRefused("no lanes=16 on this machine")
        code = hashlib.sha256(f"{stage} {config['repeat']}".encode())  # lanes=8 is the same program as unset
        return Compiled(code.hexdigest(), StaticFacts(workgroups_per_cu=1), seconds=0.0)
