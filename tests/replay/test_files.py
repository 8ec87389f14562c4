"""A table survives its file, and what is no table is said to be none."""

import gzip
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.replay.files import read_table, write_table
from autotune.replay.table import Recorded, StageTable, Table
from autotune.results import (
    Compiled,
    Failure,
    LayerConfig,
    LayerMeasurement,
    Measurement,
    Sample,
    StaticFacts,
    Status,
)
from autotune.space.config import Config
from tests.replay.synthetic import synthetic_table
from tests.spaces import TEXT

BASE = synthetic_table(tokens=(1, 4), most=3)
TEXTS = st.text(max_size=30)
SECONDS = st.integers(0, 10**7).map(lambda units: units / 100_000)
MICROSECONDS = st.integers(1, 10**7).map(lambda ns: ns / 1000)
FAILURES = st.builds(
    Failure, st.sampled_from([status for status in Status if status is not Status.OK]), TEXTS, SECONDS
)
COMPILED = st.builds(
    Compiled,
    st.text("0123456789abcdef", min_size=16, max_size=16),
    st.builds(StaticFacts, lds_bytes=st.none() | st.integers(0, 10**6), spills=st.none() | st.integers(0, 9)),
    SECONDS,
)
MEASURED = st.builds(
    Measurement,
    st.lists(MICROSECONDS.map(Sample), min_size=1, max_size=4).map(tuple),
    st.integers(1000, 9999).map(lambda digits: float(f"{digits / 1000:.3f}e-03")),
    SECONDS,
)
ROWS = st.builds(
    Recorded,
    st.builds(
        lambda n, flag: Config({"tile_n": n, "fast": flag, "note": None}), st.integers(), st.booleans()
    ),
    COMPILED | FAILURES,
    st.dictionaries(st.sampled_from([1, 4]), MEASURED | FAILURES),
    st.dictionaries(st.sampled_from([1, 4]), MICROSECONDS),
)
LAYERS = st.builds(
    LayerMeasurement,
    st.lists(MICROSECONDS, min_size=1, max_size=4).map(tuple),
    st.lists(MICROSECONDS, min_size=1, max_size=4).map(tuple),
    st.integers(1000, 9999).map(lambda digits: float(f"{digits / 1000:.3f}e-03")),
    SECONDS,
)
TABLES = st.dictionaries(
    st.sampled_from(list(Stage)),
    st.builds(
        StageTable, st.just(TEXT), st.lists(ROWS, max_size=4, unique_by=lambda row: row.config).map(tuple)
    ),
    max_size=2,
).map(lambda stages: replace(BASE, stages=stages))


@st.composite
def layered(draw: st.DrawFn) -> Table:
    """A table with layers of the configs that it holds of both stages."""
    table = draw(TABLES)
    rows = [table.stages[stage].rows if stage in table.stages else () for stage in Stage]
    pairs = [LayerConfig(one.config, two.config) for one in rows[0] for two in rows[1]]
    if not pairs:
        return table
    outcomes = st.dictionaries(st.sampled_from([1, 4]), LAYERS | FAILURES)
    return replace(table, layers=draw(st.dictionaries(st.sampled_from(pairs), outcomes)))


@settings(max_examples=50, deadline=None)
@given(layered())
def test_a_table_read_back_is_the_table_written(table: Table) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.table.json.gz"
        write_table(table, path)
        assert read_table(path) == table


def test_a_table_of_version_1_is_read_and_says_that_it_lacks_layers(tmp_path: Path) -> None:
    path = tmp_path / "old"
    write_table(BASE, path)
    head, *rows = gzip.decompress(path.read_bytes()).decode().splitlines()
    old = {name: value for name, value in json.loads(head).items() if name != "layers"} | {"version": 1}
    path.write_bytes(gzip.compress("\n".join([json.dumps(old), *rows]).encode()))
    table = read_table(path)
    assert table == BASE
    assert table.lacks is not None
    assert "holds no layers" in table.lacks


def test_equal_tables_make_equal_files(tmp_path: Path) -> None:
    write_table(BASE, tmp_path / "one")
    write_table(synthetic_table(tokens=(1, 4), most=3), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", gzip.compress(b""), gzip.compress(b'{"format": "other"}')],
    ids=["empty", "text", "nothing compressed", "another format"],
)
def test_what_is_no_table_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.table.json.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a recorded table"):
        read_table(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a recorded table"):
        read_table(tmp_path / "none")


def test_a_table_cut_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_table(BASE, path)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join(lines[:-1]).encode()))
    with pytest.raises(UserError, match="not a recorded table"):
        read_table(path)


def test_a_table_of_a_later_version_asks_for_an_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(json.dumps({"format": "autotune-table", "version": 99}).encode()))
    with pytest.raises(UserError, match="upgrade"):
        read_table(path)
