"""What a run's searches begin with."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.machine.devices import DEVICES
from autotune.machine.targets import Target
from autotune.problem.layer import Layer, Problem
from autotune.problem.models import preset
from autotune.protocol.registry import load_backend
from autotune.search.joint import JointModel
from autotune.store.store import Store
from autotune.tuning.run import RunRequest
from autotune.tuning.searches import make_searches

KIMI = Layer.of(preset("kimi-k2.5-w4a8"), tp=8)
LIVE = Target("live", DEVICES["h100"], live=True, why="")


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open(own_database) as opened:
        yield opened


def test_a_replay_is_told_of_other_layers_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A live run on a recorded layer knows its recording; a replay that did would show nothing."""
    monkeypatch.setattr(JointModel, "prepare", lambda self: None)

    def told(target: Target) -> set[str]:
        request = RunRequest(
            "triton", [Problem(KIMI, 4)], target, trials=20, seed=0, sampler="joint", workers=1
        )
        searches = make_searches(request, load_backend("triton"), store).values()
        models = [search._model for search in searches]
        return {table.layer.key for model in models if model for table in model._tables}

    live, replayed = told(LIVE), told(replace(LIVE, table=Path("a.table.json")))
    assert live - replayed == {KIMI.key}
    assert replayed
