"""The stand-in AITER on the path, its FlyDSL tree, and a log of what was launched."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standins import PUBLISHED_TREE, SITE, forget_aiter

Launches = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """Puts all in place; gives what kernels were launched with so far, and with which gate compiled."""
    log = tmp_path / "launches.jsonl"
    log.touch()
    monkeypatch.syspath_prepend(SITE)
    monkeypatch.setenv("DSL2_ROOT", str(PUBLISHED_TREE))
    monkeypatch.setenv("STANDIN_LOG", str(log))
    monkeypatch.setenv("AUTOTUNE_FLYDSL_CACHE", str(tmp_path / "cache"))
    yield lambda: [json.loads(line) for line in log.read_text().splitlines()]
    forget_aiter()
