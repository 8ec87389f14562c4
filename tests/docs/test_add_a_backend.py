"""The page "add a backend" leads to one that works: offline, and measured through gate, timer and final."""

import json
import subprocess
from pathlib import Path

import pytest

from autotune.cli.progress import Progress
from autotune.machine.devices import DEVICES
from autotune.machine.targets import Kind, Target
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem
from autotune.results import Status
from autotune.store.store import Store
from autotune.tuning.run import RunRequest, run
from tests.cli.helper import ROOT, command, env

DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
TINY = Layer("tiny", model_dim=128, inter_dim=64, experts=16, top_k=2, tp=1)


@pytest.mark.parametrize("name", ["toy_backend.py", "toy_runtime.py"])
def test_the_page_shows_the_very_files_that_run_here(name: str) -> None:
    page = (DOCS / "add-a-backend.md").read_text()
    assert f"```python\n{(EXAMPLES / name).read_text()}```" in page


def test_the_backend_is_some_sixty_lines() -> None:
    lines = (EXAMPLES / "toy_backend.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 60


def test_its_offline_run_ranks_refuses_and_merges(tmp_path: Path) -> None:
    options = ("--backend", "toy_backend:Toy", "--target", "offline:mi325x", "--workers", "1", "--json")
    done = subprocess.run(
        command("run", *options), capture_output=True, text=True, check=False,
        env=env(PYTHONPATH=f"{ROOT}:{EXAMPLES}", AUTOTUNE_DB=str(tmp_path / "toy.db")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["trials"] == {"ok": 10, "compile_error": 4}
    assert result["merged"] == 4
    (winner,) = result["winners"]
    assert winner["kind"] == "estimate"
    assert winner["config"]["stage1"]["repeat"] == 1


def test_its_measured_run_finds_the_fastest_and_confirms_it(
    own_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{EXAMPLES}")  # of compile and measure workers
    request = RunRequest(
        backend="toy_backend:Toy",
        problems=[Problem(TINY, 1)],
        target=Target("live", DEVICES["mi325x"], live=True, why="for the test"),
        trials=2,  # the default and what is published
        seed=0,
        sampler="tpe",
        workers=1,
        measuring=MeasureSettings(
            steps=2, window_s=0.02, warmup_s=0.02, min_samples=3, select_rounds=2, judge_rounds=4
        ),
    )
    with Store.open(own_database) as store:
        result = run(request, store, Progress())
        (winner,) = result.best
        assert winner.kind is Kind.MEASURED
        assert not winner.kept_default
        assert winner.config.stage1["repeat"] == winner.config.stage2["repeat"] == 1
        assert winner.gain > 0.2
        assert set(store.trial_counts(result.run)) == {Status.OK}
