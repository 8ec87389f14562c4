"""`measure`, `compare` and `confirm` on a stand-in for a GPU."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import autotune.tuning.targets
from autotune.cli.commands import expanded
from autotune.cli.compare import compare
from autotune.cli.confirm import confirm
from autotune.cli.measure import measure
from autotune.errors import UserError
from autotune.export.manifest import manifest_json
from autotune.measure.confirm import confirm as confirmed
from autotune.measure.machine import CpuMachine
from autotune.problem.layer import Problem, Stage
from autotune.results import Finalist, LayerConfig
from autotune.store.store import Store
from autotune.tuning.subjects import Resolver
from tests.live_stand_in import TARGET, TINY, StandIn
from tests.measure.conftest import QUICK
from tests.measure.fake_runtime import crowd, fake_config

PROBLEM = Problem(TINY, 4)
BACKEND = "tests.live_stand_in:StandIn"
FAST = LayerConfig(fake_config(8), fake_config(8))
SLOW = LayerConfig(fake_config(10), fake_config(10))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A live target, and the tiny layer for every model."""
    monkeypatch.setattr(autotune.tuning.targets, "resolve_target", lambda name: TARGET)
    monkeypatch.setattr("autotune.cli.groups.LayerOptions.layer", lambda *_: TINY)


@pytest.fixture
def invoke() -> Callable[..., Any]:
    app = typer.Typer()
    for command in (measure, compare, confirm):
        app.command(name=command.__name__)(expanded(command))
    runner = CliRunner()

    def call(*arguments: str) -> Any:
        return runner.invoke(app, [*arguments, "--backend", BACKEND, "--rounds", "8"])

    return call


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open(str(own_database)) as opened:
        yield opened


def won(store: Store, *finalists: Finalist) -> int:
    """A measured winner as a run leaves it; its run."""
    environment = CpuMachine().fingerprint("fake", "of an earlier day")
    run = store.begin_run("autotune run", {}, 0, environment)
    times = [sum(int(str(f.config.of(stage)["us"])) for stage in Stage) / 1000 for f in finalists]
    confirmation = confirmed(
        PROBLEM, finalists, lambda index: 1e-3, lambda index, seed: {"layer": times[index]}, QUICK
    )
    stored = store.record_confirmation(
        run, confirmation, backend=BACKEND, environment=environment, workload=QUICK.key
    )
    store.record_winner(run, stored)
    return run


def test_measure_prints_one_line_a_shape(invoke: Callable[..., Any]) -> None:
    done = invoke("measure", "--config", "stage1:us=8000", "--shape", "m1,m4")
    assert done.exit_code == 0, done.output
    assert done.output.count("µs (95% CI ") == 2
    assert "m4 stage1 on cpu" in done.output


@pytest.mark.slow
def test_each_command_measures_beside_others_when_told_to_and_says_so(
    invoke: Callable[..., Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in crowd(early="process 497 (python3)", listed="process 497 (python3)").items():
        monkeypatch.setenv(name, value)
    won(store, Finalist("default", SLOW), Finalist("candidate", FAST))
    done = invoke("measure", "--shared-gpu", "--json")
    (row,) = json.loads(done.stdout)
    assert row["workload"].endswith(";shared")
    assert "measuring beside process 497 (python3)" in done.stderr
    assert "(shared)" in invoke("compare", "default", "stage1:us=8000", "--shared-gpu").stdout
    assert invoke("confirm", "--shared-gpu").exit_code == 0
    (alone, beside) = store.winners()
    assert (alone.shared, beside.shared) == (False, True)


def test_measure_of_a_layer_as_json(invoke: Callable[..., Any]) -> None:
    done = invoke("measure", "--config", "stage1:us=8000;stage2:default", "--json")
    (found,) = json.loads(done.output)
    assert found["what"] == "layer"
    assert found["us"]["value"] == pytest.approx(18, rel=0.01)
    assert found["us"]["low"] <= found["us"]["value"] <= found["us"]["high"]


def test_a_config_that_fails_is_said_with_exit_code_1(invoke: Callable[..., Any]) -> None:
    done = invoke("measure", "--config", "stage1:us=8000,fault=wrong_tile")
    assert done.exit_code == 1
    assert "incorrect: at 4 tokens" in done.output


def test_compare_answers_of_b(invoke: Callable[..., Any]) -> None:
    done = invoke("compare", "default", "stage1:us=8000")
    assert done.exit_code == 0, done.output
    assert "m4 stage1" in done.output
    assert re.search(r"B is faster: (9\.9|10\.0)\d -> 8\.0", done.output), done.output


def test_compare_takes_runs_and_bundles(invoke: Callable[..., Any], store: Store, tmp_path: Path) -> None:
    run = won(store, Finalist("default", SLOW), Finalist("candidate", FAST))
    bundle = tmp_path / "deploy"
    bundle.mkdir()
    (bundle / "manifest.json").write_text(manifest_json(store.winners(problem=PROBLEM), {}))
    done = invoke("compare", f"run:{run}", str(bundle), "--json")
    (found,) = json.loads(done.output)
    assert (found["what"], found["verdict"]) == ("layer", "same")


def test_confirm_keeps_what_holds_and_stores_it(invoke: Callable[..., Any], store: Store) -> None:
    run = won(store, Finalist("default", SLOW), Finalist("candidate", FAST))
    done = invoke("confirm")
    assert done.exit_code == 0, done.output
    assert re.search(r"holds, \+(19\.9|20\.0)%", done.output), done.output
    assert "stack: kernel_source: of an earlier day -> fake" in done.output
    winner = store.winners(problem=PROBLEM)[-1]
    assert winner.run > run
    assert winner.config == FAST


def test_confirm_says_when_a_winner_no_longer_holds(invoke: Callable[..., Any], store: Store) -> None:
    slower = LayerConfig(fake_config(12), fake_config(12))
    slowest = LayerConfig(fake_config(14), fake_config(14))
    won(store, Finalist("default", slowest), Finalist("candidate", slower))  # today's default is faster
    done = invoke("confirm", "--json")
    assert done.exit_code == 1
    (found,) = json.loads(done.output)
    assert not found["holds"]
    winner = store.winners(problem=PROBLEM)[-1]
    assert winner.config == SLOW
    assert winner.kept_default


def test_confirm_without_a_winner_says_what_makes_one(store: Store, invoke: Callable[..., Any]) -> None:
    done = invoke("confirm")
    assert isinstance(done.exception, UserError)
    assert "autotune run --shape m4" in str(done.exception)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("nonsense", "names nothing to measure"),
        ("stage3:us=1", "is not a config"),
        ("stage1:us=7", "use one of 8000"),
        ("stage1:us=10000,fault=hang", "not legal at m4"),
        ("run:7", "is not a run"),
    ],
)
def test_what_cannot_be_named_is_one_sentence(text: str, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        Resolver(StandIn(), TARGET.device).resolve(text, PROBLEM)


def test_a_folder_that_is_no_bundle_or_anothers_is_refused(tmp_path: Path, store: Store) -> None:
    resolver = Resolver(StandIn(), TARGET.device)
    with pytest.raises(UserError, match="is not a bundle"):
        resolver.resolve(str(tmp_path), PROBLEM)
    won(store, Finalist("default", SLOW), Finalist("candidate", FAST))
    (tmp_path / "manifest.json").write_text(manifest_json(store.winners(problem=PROBLEM), {}))
    with pytest.raises(UserError, match="choose a --shape"):
        resolver.resolve(str(tmp_path), Problem(TINY, 5))


def test_a_stage_and_a_layer_are_compared_at_the_stage() -> None:
    resolver = Resolver(StandIn(), TARGET.device)
    layer, stage = (resolver.resolve(text, PROBLEM) for text in ("default", "stage2:us=8000"))
    a, b = resolver.alike(layer, stage)
    assert a.stage is b.stage is Stage.STAGE2
    assert a.subject == fake_config(10)
    with pytest.raises(UserError, match="compare one stage"):
        resolver.alike(resolver.resolve("stage1:us=8000", PROBLEM), stage)
