"""A small space for tests that need one without a backend."""

from pathlib import Path

from autotune.machine.devices import DEVICES
from autotune.problem.layer import Layer, Stage
from autotune.problem.models import preset
from autotune.space.read import load_spaces
from autotune.space.space import BoundSpace

KIMI = Layer.of(preset("kimi-k2.5-w4a8"), tp=8)
MI325X = DEVICES["mi325x"]

TEXT = """
backend = "toy"
generation = "one"
stage = "stage1"
doc = "a space for tests"

[params.tile_n]
values = [32, 64, 128]
default = 64
doc = "columns"

[params.split_k]
values = [1, 2, 3, 4]
default = 1
doc = "parts of K"

[params.waves_per_eu]
values = ["unset", 1, 2]
default = "unset"
arch = ["gfx"]
option = "waves_per_eu"
doc = "hint"

[params.fast]
values = [true, false]
default = false
doc = "a switch"

[[defaults]]
when = "tokens <= 2"
set = { split_k = 4 }

[[rules]]
name = "split-divides"
require = "model_dim % (64 * split_k) == 0"
reason = "every part has as many tiles"

[[rules]]
name = "narrow-split"
require = "split_k == 1 or tile_n <= 64 or waves_per_eu == unset"
reason = "for the test"
"""


def toy_space(folder: Path, *, tokens: int = 4, text: str = TEXT) -> BoundSpace:
    """The toy space at Kimi's layer on the MI325X."""
    path = folder / "stage1.toml"
    path.write_text(text)
    return load_spaces(path)[Stage.STAGE1].at(KIMI, tokens, MI325X)
