"""A whole run on a live device, by way of the CPU stand-in: search, confirmation, winners, export."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from autotune.cli.outcome import print_outcome
from autotune.cli.progress import Progress
from autotune.errors import UserError
from autotune.export.export import Selection, export
from autotune.machine.targets import Kind
from autotune.measure.neighbours import HIDDEN
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem, Stage
from autotune.report.winners import verdict
from autotune.results import LayerConfig, LayerMeasurement, Status
from autotune.space.config import Config
from autotune.store.records import RunState
from autotune.store.store import Store
from autotune.tuning.run import RunRequest, RunResult, run, stopped_early
from tests.live_stand_in import (
    TARGET,
    TINY,
    DiesInRounds,
    OneConfig,
    OnlyBrokenOnesAreFast,
    StandIn,
    WrongDefault,
)
from tests.measure.fake_runtime import crowd

PROBLEM = Problem(TINY, 2)


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open(own_database) as opened:
        yield opened


def _run(
    store: Store,
    backend: str,
    trials: int = 20,
    cold: float = 2.0,
    *,
    shared_gpu: bool = False,
    listener: Progress | None = None,
) -> RunResult:
    measuring = MeasureSettings(
        cold=cold, steps=4, timeout_s=3.0, select_rounds=2, judge_rounds=8, shared_gpu=shared_gpu
    )
    request = RunRequest(
        backend=backend,
        problems=[PROBLEM],
        target=TARGET,
        trials=trials,
        seed=0,
        sampler="tpe",
        workers=1,
        measuring=measuring,
    )
    return run(request, store, listener or Progress())


@pytest.mark.fault
@pytest.mark.slow
def test_the_winner_is_the_fastest_that_is_right(store: Store, tmp_path: Path) -> None:
    result = _run(store, StandIn.name)
    assert result.complete
    assert result.environment.device != TARGET.device.name  # the machine's own word, not the request's
    (winner,) = result.best
    right = Config({"us": 8000, "fault": "none"})
    assert (winner.kind, winner.config.stage1, winner.config.stage2) == (Kind.MEASURED, right, right)
    assert winner.gain == pytest.approx(0.2, abs=0.02)
    assert winner.gain_low is not None
    assert winner.gain_low > 0.01

    # Six configs a stage: a wrong one, a killed worker and a hang among them.
    trials = store.trials_of(result.run)
    searched = Counter(trial.status for trial in trials)
    assert searched == {
        Status.OK: 6,
        Status.INCORRECT: 2,
        Status.RUNTIME_ERROR: 2,
        Status.TIMEOUT: 2,
    }
    # Pairs of what works were tried as layers, each beside the default, and are kept.
    layers = store.layers_of(result.run)
    timed = {layer.config for layer in layers if isinstance(layer.outcome, LayerMeasurement)}
    assert LayerConfig(right, right) in timed
    assert all(layer.default == winner.default for layer in layers)
    for trial in trials:
        assert (trial.time_us is None) == (trial.status is not Status.OK)
        assert bool(store.samples(trial.id)) == (trial.status is Status.OK)

    with pytest.raises(UserError, match="brings no exporter"):
        export(store, tmp_path / "deploy", Selection(backend=StandIn.name))


def test_a_layer_with_one_config_is_confirmed_with_equal_ones_only(store: Store) -> None:
    (winner,) = _run(store, OneConfig.name).best
    assert winner.config.stage1 == winner.config.stage2 == Config({"us": 8000, "fault": "none"})
    assert winner.confirmation is not None
    final = store.confirmation(winner.confirmation).confirmation
    assert len(final.finalists) == 3
    assert all(one.config.stage1 == one.config.stage2 for one in final.finalists)


@pytest.mark.slow
def test_windows_beside_others_are_marked_put_off_and_never_resumed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while two of three samples of everything are three times slower; no list shows who it is."""
    for name, value in crowd(share=0.66, first=30, last=1500).items():
        monkeypatch.setenv(name, value)
    (winner,) = _run(store, OneConfig.name).best
    (run_of_it,) = store.runs()
    marked = store.trials_of(run_of_it.id, contended=True)
    assert marked
    assert all(HIDDEN in (trial.contended or "") for trial in marked)
    assert all(store.samples(trial.id) for trial in marked)
    trials = store.trials_of(run_of_it.id)
    assert {trial.config for trial in marked} <= {trial.config for trial in trials}  # measured again
    for trial in trials:
        assert trial.time_us == pytest.approx(int(str(trial.config["us"])) / 1000, rel=0.02)
    assert winner.config.stage1 == Config({"us": 8000, "fault": "none"})
    assert winner.gain == pytest.approx(0.2, abs=0.02)
    assert not winner.shared

    again = _run(store, OneConfig.name, listener=(resumed := Progress()))
    assert resumed.resumed == len({(t.stage, t.config) for t in trials})
    assert again.best[0].config == winner.config


@pytest.mark.slow
def test_who_insists_has_times_that_say_so_and_are_never_mixed_with_others(store: Store) -> None:
    (alone,) = _run(store, OneConfig.name).best
    (beside,) = _run(store, OneConfig.name, shared_gpu=True, listener=(told := Progress())).best
    assert not told.resumed
    assert (alone.shared, beside.shared) == (False, True)
    assert "on a shared GPU" in verdict(beside)
    assert "shared" not in verdict(alone)


@pytest.mark.fault
@pytest.mark.slow
def test_a_finalist_that_dies_again_and_again_is_told_of(store: Store) -> None:
    result = _run(store, DiesInRounds.name)
    (winner,) = result.best
    assert winner.kept_default
    (reasons,) = result.left_out.values()
    assert reasons
    assert all("killed by SIGKILL" in reason and "the second death" in reason for reason in reasons)


@pytest.mark.fault
@pytest.mark.slow
def test_what_ships_is_kept_where_only_broken_kernels_are_faster(store: Store) -> None:
    (winner,) = _run(store, OnlyBrokenOnesAreFast.name).best
    assert winner.kept_default
    assert winner.config == winner.default
    assert winner.config.stage1["fault"] == "none"


def test_the_default_is_trial_0_of_each_stage(store: Store) -> None:
    result = _run(store, StandIn.name, trials=1)
    trials = store.trials_of(result.run)
    assert {trial.stage for trial in trials} == set(Stage)
    assert {trial.origin for trial in trials} == {"default"}
    (winner,) = result.best
    assert winner.kept_default


def test_a_default_that_fails_leaves_nothing_to_be_told_and_is_exit_code_1(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    result = _run(store, WrongDefault.name, trials=2, listener=(told := Progress()))
    assert not result.best
    assert result.failed.keys() == {PROBLEM}
    assert result.failed[PROBLEM].startswith("the default was not timed: incorrect: ")
    assert store.run(result.run).state is RunState.FAILED  # a plan takes it up again
    with pytest.raises(typer.Exit) as ended:
        print_outcome(store, result, told, TARGET, False, False, None)
    assert ended.value.exit_code == 1
    out, err = capsys.readouterr()
    assert "no winner" not in out
    assert err.startswith(
        "error: the default itself failed, so there is nothing to compare with (m2, the default"
    )
    assert "`autotune measure --config default` with this run's options" in err


@pytest.mark.slow
def test_hot_times_decide_nothing(store: Store) -> None:
    """Serving finds its weights cold: a hot final must not replace a cold winner."""
    (cold,) = _run(store, StandIn.name, trials=6).best
    hot = _run(store, StandIn.name, trials=6, cold=0.0)
    assert not hot.best
    (kept,) = store.winners()
    assert kept.id == cold.id


def test_why_searches_ended_early_is_told_once_for_all_shapes_that_ended_so() -> None:
    reasons = {(1, Stage.STAGE1): "slow", (2, Stage.STAGE1): "slow", (1, Stage.STAGE2): None}
    searches = {
        (Problem(TINY, tokens), stage): SimpleNamespace(stopped=reason)
        for (tokens, stage), reason in reasons.items()
    }
    current: Any = SimpleNamespace(searches=searches)
    assert stopped_early(current) == ["m1, m2 stage1: slow"]
