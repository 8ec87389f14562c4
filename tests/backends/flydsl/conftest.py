"""Stand-in trees and a stand-in wheel, chosen by the same variables as real ones."""

from pathlib import Path

import pytest

from tests.standins import MAIN_TREE, PUBLISHED_TREE, python_with_wheel


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published generation's tree with its wheel."""
    monkeypatch.setenv("DSL2_ROOT", str(PUBLISHED_TREE))
    monkeypatch.setenv("AUTOTUNE_FLYDSL_PYTHON", str(python_with_wheel(tmp_path, "0.1.5")))


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlyDSL main's tree with its wheel."""
    monkeypatch.setenv("DSL2_ROOT", str(MAIN_TREE))
    monkeypatch.setenv("AUTOTUNE_FLYDSL_PYTHON", str(python_with_wheel(tmp_path, "0.5.0")))
