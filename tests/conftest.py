"""Every test has its own database and never sees the user's."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How fast a machine draws examples says nothing of what is tested.
settings.register_profile("any speed", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("any speed")


@pytest.fixture(autouse=True)
def own_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`AUTOTUNE_DB` points into the test's folder."""
    path = tmp_path / "autotune.db"
    monkeypatch.setenv("AUTOTUNE_DB", str(path))
    return path
