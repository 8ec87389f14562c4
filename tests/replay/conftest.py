"""One small synthetic table for the whole session."""

from pathlib import Path

import pytest

from autotune.problem.layer import Stage
from autotune.replay.files import write_table
from autotune.replay.table import Table
from tests.replay.synthetic import synthetic_table

SMALL = {
    Stage.STAGE1: {
        "tile_m": (16,),
        "prefetch": (None,),
        "group": (1,),
        "w_cache": ("none",),
        "pdl": (None,),
        "num_stages": (2, 3),
        "split_k": (1, 2, 7),
    },
    Stage.STAGE2: {
        "tile_m": (16,),
        "group": (1,),
        "w_cache": ("none",),
        "pdl": (None,),
        "reduce": ("arrive",),
        "num_stages": (2, 3),
    },
}


@pytest.fixture(scope="session")
def table() -> Table:
    return synthetic_table(tokens=(1, 2, 4), kept=SMALL)


@pytest.fixture(scope="session")
def table_path(table: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "small.table.json.gz"
    write_table(table, path)
    return path
