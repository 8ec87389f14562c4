"""Every test has its own database and never sees the user's."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from autotune.backends.aiter.source import SOURCE_VARIABLE
from tests.aiter_trees import GIVEN

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does, before numpy is imported

# How fast a machine draws examples says nothing of what is tested.
settings.register_profile("any speed", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("any speed")


@pytest.fixture(autouse=True)
def own_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`AUTOTUNE_DB` points into the test's folder."""
    path = tmp_path / "autotune.db"
    monkeypatch.setenv("AUTOTUNE_DB", str(path))
    return path


@pytest.fixture(autouse=True)
def one_aiter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested takes one tree of AITER; contract tests may be given several, and name theirs."""
    if len(GIVEN) > 1:
        monkeypatch.setenv(SOURCE_VARIABLE, str(GIVEN[0]))
