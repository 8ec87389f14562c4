"""The stand-in AITER main on the path, and a log of what was launched."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standins import SITE_MAIN, forget_aiter

Launches = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """Puts all in place; gives what kernels were launched with so far."""
    log = tmp_path / "launches.jsonl"
    log.touch()
    monkeypatch.syspath_prepend(SITE_MAIN)
    monkeypatch.setenv("AUTOTUNE_AITER_SRC", str(SITE_MAIN))
    monkeypatch.setenv("STANDIN_LOG", str(log))
    yield lambda: [json.loads(line) for line in log.read_text().splitlines()]
    forget_aiter()
