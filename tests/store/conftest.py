"""An empty database a test; it is made once and copied."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.store.store import Store
from tests.store.examples import begin


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "empty.db"
    Store.open(path).close()
    return path


@pytest.fixture
def path(empty: Path, own_database: Path) -> Path:
    """A database file of this tool's version."""
    shutil.copy(empty, own_database)
    return own_database


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open() as store:
        yield store


@pytest.fixture
def run(store: Store) -> int:
    return begin(store)
