"""Databases to report on: a real one from an H100, and one of many trials made up."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.report.content import Report, Scope, gather
from autotune.store.store import Store
from tests.report.synthetic import fill
from tests.store.examples import begin

RECORDED = Path(__file__).parents[2] / "notebooks" / "data" / "h100-m4.db.gz"


@pytest.fixture
def h100(own_database: Path) -> Iterator[Store]:
    """`autotune run --shape m4 --trials 150` as an NVIDIA H100 80GB HBM3 measured it."""
    own_database.write_bytes(gzip.decompress(RECORDED.read_bytes()))
    with Store.open() as store:
        yield store


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    """An empty database."""
    with Store.open() as opened:
        yield opened


@pytest.fixture
def run(store: Store) -> int:
    return begin(store)


@pytest.fixture(scope="session")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,600 trials over eight shapes, with failures of every kind."""
    path = tmp_path_factory.mktemp("large") / "large.db"
    with Store.open(path) as store:
        fill(store, trials=1600)
    return path


@pytest.fixture(scope="session")
def large(large_file: Path) -> Iterator[Store]:
    with Store.open(large_file, read_only=True) as store:
        yield store


@pytest.fixture(scope="session")
def large_report(large: Store) -> Report:
    """What is in it; gathered once, since nothing changes it."""
    return gather(large, Scope())
