"""The recorded tables under db/tables: of the spaces that ship, and good configs are found in them soon."""

from functools import cache

import numpy as np
import pytest
from bench.scoring import recordings
from bench.searchers import ours_jointly

from autotune.problem.layer import Stage
from autotune.replay.files import SUFFIX, read_table
from autotune.replay.table import Table
from autotune.resources import data_dir
from autotune.space.config import Config, Value
from autotune.space.read import shipped_spaces

FOLDER = data_dir("db") / "tables"
PATHS = {path.name.removesuffix(SUFFIX): path for path in sorted(FOLDER.glob(f"*{SUFFIX}"))}
_read = cache(read_table)
KIMI = "h100-kimi-k2.5-w4a8-tp8"


@pytest.fixture(scope="module", params=list(PATHS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def recorded(name: str) -> Table:
    return _read(PATHS[name])


def test_the_readme_names_it_with_its_command(name: str, recorded: Table) -> None:
    text = (FOLDER.parent / "README.md").read_text()
    assert PATHS[name].name in text
    assert recorded.command in text


def test_it_is_of_the_space_that_ships_less_what_came_later(recorded: Table) -> None:
    """Each recorded config is one of the shipped space, with the values that mean what was recorded."""
    later: dict[str, Value] = {"partials": "float32", "prefetch": None, "requantise": "launch"}
    for stage, part in recorded.stages.items():
        space = shipped_spaces("triton")[stage].at(recorded.layer, recorded.tokens[0], recorded.device)
        added = {name: later[name] for name in space.default if name not in next(iter(part.by_config))}
        assert all(space.is_legal(Config({**added, **config})) for config in part.by_config)


def test_every_recorded_config_is_legal(recorded: Table) -> None:
    assert recorded.tokens == (1, 2, 3, 4, 5, 6, 7, 8)
    assert list(recorded.stages) == list(Stage)
    for part in recorded.stages.values():
        # Rules on tokens are bounds: what meets them at both ends meets them between.
        for tokens in (recorded.tokens[0], recorded.tokens[-1]):
            space = part.space.at(recorded.layer, tokens, recorded.device)
            assert len(part.by_config) == len(part.rows) >= 500
            assert all(space.is_legal(config) for config in part.by_config)


def test_it_has_an_optimum_everywhere_that_is_faster_than_what_ships(recorded: Table) -> None:
    for stage, part in recorded.stages.items():
        for tokens in recorded.tokens:
            ships = part.by_config[recorded.space(tokens, stage).default].us(tokens)
            assert ships is not None
            assert 0 < part.optimum(tokens)[1] <= ships


def test_a_search_of_two_token_counts_finds_a_good_config_soon() -> None:
    """Of a dozen seeds the worst came within 0.8 %."""
    table = _read(PATHS[KIMI])
    problems = [r for r in recordings(table, KIMI) if r.stage is Stage.STAGE1 and r.tokens in (4, 8)]
    size = len(problems[0].rows)
    events = ours_jointly(table, problems, seed=1, candidates=size * 6 // 100).events
    assert len({row for _, row in events}) <= 0.08 * size
    for index, problem in enumerate(problems):
        best = np.nanmin([problem.true[row] for which, row in events if which == index])
        assert best <= 1.03 * problem.optimum
