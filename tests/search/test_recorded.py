"""What was recorded of other layers, as the search reads it."""

import json

import numpy as np
import pytest

from autotune.machine.devices import DEVICES
from autotune.problem.layer import Layer, Stage
from autotune.search import recorded as module
from autotune.search.recorded import Recorded, packed, recorded
from autotune.space.config import Value

H100 = DEVICES["h100"].arch


@pytest.mark.parametrize("stage", list(Stage))
def test_the_file_holds_fast_configs_and_others_of_several_layers(stage: Stage) -> None:
    tables = recorded("triton", H100, stage)
    assert len({table.layer.key for table in tables}) == len(tables) >= 3
    for table in tables:
        assert table.ratios.shape == (len(table.configs), len(table.tokens))
        assert np.nanmin(table.ratios) <= 1.0
        assert np.nanmedian(table.ratios) > 1.1, "a model of fast configs alone knows nothing of slow ones"


def test_those_of_another_arch_or_backend_say_nothing() -> None:
    assert recorded("triton", "gfx942", Stage.STAGE1) == []
    assert recorded("sglang", H100, Stage.STAGE1) == []


def test_a_layers_own_table_can_be_left_out() -> None:
    tables = recorded("triton", H100, Stage.STAGE1)
    own = tables[1].layer.key
    assert [t.layer.key for t in recorded("triton", H100, Stage.STAGE1, leaving=[own])] == [
        t.layer.key for t in tables if t.layer.key != own
    ]


def test_what_is_packed_is_unpacked() -> None:
    knobs: dict[str, list[Value]] = {"tile_n": [16, 32], "pdl": [None, True], "cache": ["none"]}
    configs = [{"tile_n": 32, "pdl": None, "cache": "none"}, {"tile_n": 16, "pdl": True, "cache": "none"}]
    table = Recorded(
        Layer("m", 64, 32, 8, 2, 4, ep=2), (1, 4), knobs, configs, np.array([[1.0, 1.234], [2.5, np.nan]])
    )
    read = module._unpacked(json.loads(json.dumps(packed(table))))
    assert (read.layer, read.tokens, read.knobs, read.configs) == (table.layer, (1, 4), knobs, configs)
    assert read.ratios == pytest.approx(table.ratios, nan_ok=True)
