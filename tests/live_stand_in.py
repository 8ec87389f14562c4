"""A backend with the CPU stand-in of `tests.measure.fake_runtime` for a device: a live run without a GPU."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from autotune.machine.devices import DEVICES, Device
from autotune.machine.targets import Target
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.backend import Work
from autotune.results import Compiled, StaticFacts
from autotune.space.config import Config
from autotune.space.read import parse_space
from autotune.space.space import BoundSpace

TINY = Layer("tiny", model_dim=128, inter_dim=64, experts=16, top_k=2, tp=1)
TARGET = Target("live", DEVICES["mi325x"], live=True, why="for the test")
_SPACE = """
backend = "stand-in"
generation = "one"
stage = "STAGE"
doc = "a config says how long it takes and what goes wrong"
[params.us]
values = [VALUES]
default = 10000
doc = "thousandths of a microsecond"
[params.fault]
values = ["none", "wrong_tile", "sigkill", "hang", "dies_in_layers"]
default = "DEFAULT"
doc = "what goes wrong"
[[rules]]
name = "RULE"
require = "REQUIRE"
reason = "for the test"
"""


class StandIn:
    """Every config compiles. Fast ones are to be had with each fault and without."""

    name = "tests.live_stand_in:StandIn"
    runtime = "tests.measure.fake_runtime:make"
    values = "8000, 10000, 12000"
    require = "fault == 'none' or us == 8000 and fault != 'dies_in_layers'"
    default = "none"

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        text = (
            _SPACE.replace("STAGE", str(stage))
            .replace("REQUIRE", self.require)
            .replace("VALUES", self.values)
            .replace("DEFAULT", self.default)
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "space.toml")
            path.write_text(text)
            return parse_space(path.read_text()).at(layer, tokens, device)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        return {}

    def artefact_key(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> str:
        return f"{layer.key}/{stage}/{config.key}"

    def environment(self, config: Config) -> Mapping[str, str]:
        return {}

    def source_digest(self) -> str:
        return "stand-in"

    def work(self, problem: Problem, stage: Stage, config: Config) -> Work:
        return Work(1e6, 100, 1e4)

    def compile(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Compiled:
        return Compiled(f"{stage}{config.key}", StaticFacts(workgroups_per_cu=1), 0.001)


class OfFleet(StandIn):
    """On one of several GPUs. Nothing is wrong with any config; the fastest is 8 us."""

    name = "tests.live_stand_in:OfFleet"
    runtime = "tests.measure.fake_runtime:make_fleet"
    require = "fault == 'none'"


class Wide(StandIn):
    """Has 41 configs a stage, all of them right."""

    name = "tests.live_stand_in:Wide"
    values = ", ".join(str(us) for us in range(8000, 12_001, 100))
    require = "fault == 'none'"


class WideFleet(Wide):
    """The same on one of several GPUs."""

    name = "tests.live_stand_in:WideFleet"
    runtime = "tests.measure.fake_runtime:make_fleet"


class OneConfig(StandIn):
    """Its engine has one entry for both stages."""

    name = "tests.live_stand_in:OneConfig"
    require = "fault == 'none'"
    one_config = True


class OnlyBrokenOnesAreFast(StandIn):
    """Nothing that is right beats the default."""

    name = "tests.live_stand_in:OnlyBrokenOnesAreFast"
    require = "us >= 10000 if fault == 'none' else us == 8000 and fault != 'dies_in_layers'"


class WrongDefault(StandIn):
    """What ships is wrong."""

    name = "tests.live_stand_in:WrongDefault"
    require = "fault in ('none', 'wrong_tile')"
    default = "wrong_tile"


class DiesInRounds(StandIn):
    """What is fast alone kills its worker as part of a layer."""

    name = "tests.live_stand_in:DiesInRounds"
    require = "fault == 'dies_in_layers' if us == 8000 else fault == 'none'"
