"""Every test has its own database and never sees the user's."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from autotune.backends.aiter.source import SOURCE_VARIABLE
from tests import template, warm
from tests.aiter_trees import GIVEN

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does, before numpy is imported
# Its import would start two processes that build what only a GPU uses, six seconds of a core each.
os.environ.setdefault("HUMMING_DISABLE_PARALLEL_BUILD", "1")

# How fast a machine draws examples says nothing of what is tested.
settings.register_profile("any speed", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("any speed")

warm.install()
template.install()


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths of databases that nobody has made: most tests make none, and a folder for each takes time."""
    folder = tmp_path_factory.mktemp("databases")
    return (folder / f"{number}.db" for number in count())


@pytest.fixture(autouse=True)
def own_database(databases: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """`AUTOTUNE_DB` is a place of the test's own."""
    path = next(databases)
    monkeypatch.setenv("AUTOTUNE_DB", str(path))
    return path


@pytest.fixture(autouse=True)
def one_aiter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested takes one tree of AITER; contract tests may be given several, and name theirs."""
    if len(GIVEN) > 1:
        monkeypatch.setenv(SOURCE_VARIABLE, str(GIVEN[0]))
