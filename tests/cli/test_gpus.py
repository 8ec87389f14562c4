"""Processes that are started before the GPU has been asked, as many as there will be measure workers."""

from collections.abc import Sequence

import pytest

from autotune.cli.gpus import start_workers_ahead
from autotune.machine import probe
from autotune.processes import spawning


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    monkeypatch.setattr(spawning, "start_ahead", lambda count, modules: counts.append(count))
    return counts


@pytest.mark.parametrize(
    ("nodes", "indices", "count"),
    [(4, None, [1]), (4, (), [4]), (4, (0, 1), [2]), (0, None, []), (0, (), [])],
)
def test_one_a_gpu_that_is_asked_for_and_none_without_a_driver(
    started: list[int],
    monkeypatch: pytest.MonkeyPatch,
    nodes: int,
    indices: Sequence[int] | None,
    count: list[int],
) -> None:
    monkeypatch.setattr(probe, "gpu_nodes", lambda: nodes)
    start_workers_ahead(indices)
    assert started == count


def test_none_where_the_gpu_was_asked_before(started: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "gpu_nodes", lambda: 4)
    monkeypatch.setattr(probe, "answered", lambda: True)
    start_workers_ahead(None)
    assert started == []
