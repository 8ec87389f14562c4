"""Two backends side by side on a stand-in for a GPU, and the script that prints it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.beside import contenders, side_by_side

from autotune.machine.targets import Kind
from autotune.measure.confirm import confirm
from autotune.measure.machine import CpuMachine
from autotune.measure.pool import Measurer
from autotune.problem.layer import Problem, Stage, WeightBytes
from autotune.protocol.registry import load_backend
from autotune.protocol.runtime import Subject
from autotune.results import Failure, Finalist, LayerConfig, Status
from autotune.space.config import Config
from autotune.statistics import Interval
from autotune.store.records import TrialRecord
from autotune.store.store import Store
from tests.live_stand_in import TARGET, TINY, OnlyBrokenOnesAreFast, StandIn
from tests.measure.conftest import QUICK
from tests.measure.fake_runtime import Fault, fake_config

PROBLEM = Problem(TINY, 2)
OURS, THEIRS = StandIn.name, OnlyBrokenOnesAreFast.name
HERE = CpuMachine().fingerprint("fake", "fake")


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open(str(own_database)) as opened:
        yield opened


def tried(
    store: Store, config: Config, us: float, workload: str = QUICK.key, stage: Stage = Stage.STAGE1
) -> None:
    """A trial as a search leaves it."""
    run = store.begin_run("autotune run", {}, 0, HERE)
    trial = TrialRecord(
        problem=PROBLEM,
        stage=stage,
        backend=OURS,
        environment=HERE,
        space_digest="of an earlier day",
        workload=workload,
        config=config,
        origin="tpe",
        status=Status.OK,
        kind=Kind.MEASURED,
        time_us=us,
        gate_error=1e-3,
    )
    store.record_trial(run, trial)


def won(store: Store, config: Config) -> None:
    slow = LayerConfig(fake_config(10), fake_config(10))
    run = store.begin_run("autotune run", {}, 0, HERE)
    finalists = [Finalist("default", slow), Finalist("candidate", LayerConfig(config, config))]
    confirmation = confirm(
        PROBLEM, finalists, lambda index: 1e-3, lambda index, seed: {"layer": 20.0 - 4 * index}, QUICK
    )
    kept = store.record_confirmation(run, confirmation, backend=OURS, environment=HERE, workload=QUICK.key)
    store.record_winner(run, kept)


def field(*stores: Store, stage: Stage | None = Stage.STAGE1) -> dict[str, Subject]:
    backend = load_backend(OURS)
    entrants = contenders(backend, PROBLEM, stage, TARGET.device, HERE, QUICK.key, stores)
    return {contender.label: contender.config for contender in entrants}


def test_without_a_database_only_the_default_takes_part() -> None:
    assert field() == {"default": fake_config(10)}


def test_the_winners_stage_and_the_searchs_fastest_take_part_once_each(store: Store) -> None:
    won(store, fake_config(8))
    tried(store, fake_config(8), 8.0)
    assert field(store) == {"default": fake_config(10), "winner": fake_config(8)}
    tried(store, fake_config(8, Fault.WRONG_TILE), 7.0)
    assert field(store)["fastest of the search"] == fake_config(8, Fault.WRONG_TILE)


def test_of_a_layer_the_winner_takes_part_and_without_one_the_fastest_stages_together(store: Store) -> None:
    default = LayerConfig(fake_config(10), fake_config(10))
    tried(store, fake_config(8), 8.0)
    assert field(store, stage=None) == {"default": default}  # stage 2 was not searched
    tried(store, fake_config(12), 12.0, stage=Stage.STAGE2)
    assert field(store, stage=None)["fastest of the search"] == LayerConfig(fake_config(8), fake_config(12))
    won(store, fake_config(8))
    both = LayerConfig(fake_config(8), fake_config(8))
    assert field(store, stage=None) == {"default": default, "winner": both}


def test_what_was_found_under_other_conditions_or_is_no_longer_offered_does_not(store: Store) -> None:
    tried(store, fake_config(8), 8.0, workload="hot")
    tried(store, fake_config(7), 7.0)
    assert field(store) == {"default": fake_config(10)}


@pytest.mark.slow
def test_unlike_backends_take_turns_and_a_wrong_one_is_left_out() -> None:
    backends = {name: load_backend(name) for name in (OURS, THEIRS)}
    arms = [
        contender
        for backend in backends.values()
        for contender in contenders(backend, PROBLEM, Stage.STAGE1, TARGET.device, HERE, QUICK.key)
    ]
    arms.append(type(arms[0])(THEIRS, "broken", fake_config(8, Fault.WRONG_TILE)))
    with (
        Measurer(backends[OURS].runtime, [PROBLEM], QUICK) as ours,
        Measurer(backends[THEIRS].runtime, [PROBLEM], QUICK) as theirs,
    ):
        first, second, third = side_by_side(
            {OURS: ours, THEIRS: theirs}, backends, PROBLEM, Stage.STAGE1, arms
        )
    for one in (first, second):
        assert not isinstance(one, Failure)
        assert isinstance(one.us, Interval)
        assert one.us.value == pytest.approx(10, rel=0.01)
        assert one.us.low <= one.us.value <= one.us.high
        assert 0 < one.gate_error < 0.01
    assert isinstance(third, Failure)
    assert third.status is Status.INCORRECT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`scripts/beside_engine.py` on the tiny layer."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import beside_engine

    monkeypatch.setattr(beside_engine, "resolve_target", lambda _: TARGET)
    monkeypatch.setattr(beside_engine.Layer, "of", lambda *_: TINY)
    read = {OURS: WeightBytes(0.5, row=4.0), THEIRS: WeightBytes(0.5625)}
    monkeypatch.setattr(beside_engine, "weights_of", read.get)

    def call(*arguments: str) -> int:
        backends = ("--ours", OURS, "--engine", THEIRS)
        made: int = beside_engine.main([*backends, "--shape", "m1,m2", "--rounds", "4", *arguments])
        return made

    return call


@pytest.mark.slow
def test_the_script_prints_and_writes_every_stage_at_every_shape(
    script: Callable[..., Any], store: Store, own_database: Path, capsys: Any, tmp_path: Path
) -> None:
    won(store, fake_config(8))
    out = tmp_path / "beside.json"
    assert script("--db", str(own_database), "--bandwidth", "0.001", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "at 0.00 TB/s" in printed
    assert "m2 stage1: tests.live_stand_in:StandIn 8.0" in printed
    assert "1.25x" in printed
    found = json.loads(out.read_text())
    rows = found["rows"]
    # Two backends' defaults at two shapes, of stages and layer, and the winner at one shape.
    assert len(rows) == 2 * 2 * 3 + 3
    row = next(row for row in rows if row["label"] == "winner" and row["what"] == "stage1")
    # Two tokens with 2 of 16 experts each visit 3.75 of them: 128 rows of 128 INT4 and a scale.
    assert row["weight_bytes"] == pytest.approx(3.75 * 128 * (64 + 4))
    assert row["of_floor"] == pytest.approx(row["weight_bytes"] / 1e9 * 1e6 / row["us"]["value"])
    layer = next(row for row in rows if row["label"] == "winner" and row["what"] == "layer")
    assert layer["weight_bytes"] == pytest.approx(1.5 * row["weight_bytes"], rel=0.05)
    assert set(found["fingerprints"]) == {OURS, THEIRS}


def test_a_backend_whose_bytes_are_not_known_is_refused(script: Callable[..., Any], capsys: Any) -> None:
    assert script("--engine", "tests.live_stand_in:Unheard") == 2
    assert "beside_engine:" in capsys.readouterr().err
