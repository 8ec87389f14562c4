"""Recording, with real compiles and kernels on Triton's interpreter: all but the times is as on a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
from bench.journal import Journal
from bench.recorder import Recorder, Recording, product_by_rank
from bench.subspace import KEPT, bounded, leading, parse_kept
from bench.sweep import SweepSettings, unsettled

from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.registry import load_backend
from autotune.replay.files import read_table, write_table
from autotune.replay.table import Table
from autotune.results import LayerConfig, LayerMeasurement, Measurement
from autotune.space.config import Config

pytestmark = pytest.mark.slow

LAYER = Layer("tiny", model_dim=256, inter_dim=128, experts=8, top_k=2, tp=1)
H100 = DEVICES["h100"]


def recording() -> Recording:
    backend = load_backend("triton")
    problems = [Problem(LAYER, 1), Problem(LAYER, 2)]
    space = backend.space(LAYER, 1, Stage.STAGE1, H100)
    return Recording(
        backend=backend,
        device=H100,
        problems=problems,
        configs={Stage.STAGE1: bounded(space, {**KEPT[Stage.STAGE1], "pdl": (None,)}, most=3)},
        settings=SweepSettings(
            MeasureSettings(cold=0, steps=1, min_sample_us=1.0),
            samples=1,
            contenders=2,
            round_samples=1,
            least_rounds=2,
            most_rounds=2,
        ),
        workers=1,
        command="test",
        environment={"TRITON_INTERPRET": "1"},
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, Path]:
    journal = tmp_path_factory.mktemp("recording") / "tiny.journal"
    with Recorder(recording(), journal, lambda _: None) as recorder:
        table = recorder.run()
    assert table is not None
    return table, journal


def test_every_config_is_measured_at_every_token_count(recorded: tuple[Table, Path]) -> None:
    table, _ = recorded
    for stage in table.stages:
        assert [row.config for row in table.stages[stage].rows] == recording().configs[stage]
        for row in table.stages[stage].rows:
            assert {type(outcome) for outcome in row.outcomes.values()} == {Measurement}
            assert set(row.outcomes) == {1, 2}
            assert all(outcome.error < 0.01 for outcome in row.outcomes.values())


def test_the_best_are_settled(recorded: tuple[Table, Path]) -> None:
    for part in recorded[0].stages.values():
        for tokens in (1, 2):
            assert sum(tokens in row.settled for row in part.rows) == 2
            config, us = part.optimum(tokens)
            assert part.by_config[config].settled[tokens] == us


def test_it_becomes_a_file(recorded: tuple[Table, Path], tmp_path: Path) -> None:
    write_table(recorded[0], tmp_path / "t")
    assert read_table(tmp_path / "t").space(1, Stage.STAGE1).size == 3


def test_a_finished_recording_is_not_measured_again(recorded: tuple[Table, Path]) -> None:
    table, journal = recorded
    before = journal.read_text()
    with Recorder(recording(), journal, lambda _: None) as recorder:
        again = recorder.run()
    assert journal.read_text() == before
    assert again is not None
    assert {s: p.optimum(1) for s, p in again.stages.items()} == {
        s: (config, pytest.approx(us, abs=1e-3))
        for s, (config, us) in ((s, p.optimum(1)) for s, p in table.stages.items())
    }


def test_a_line_that_a_kill_cut_short_is_forgotten(recorded: tuple[Table, Path], tmp_path: Path) -> None:
    text = recorded[1].read_text()
    copy = tmp_path / "cut.journal"
    copy.write_text(text[: text.index('"outcomes"') + 30])
    journal = Journal(copy, recording().key)
    assert journal.compiled
    assert not journal.outcomes
    assert copy.read_text().endswith("\n")


def test_another_recordings_journal_is_not_continued(recorded: tuple[Table, Path]) -> None:
    with pytest.raises(UserError, match="belongs to another recording"):
        Journal(recorded[1], "another")


def test_time_is_up_before_it_begins(tmp_path: Path) -> None:
    with Recorder(recording(), tmp_path / "x.journal", lambda _: None) as recorder:
        assert recorder.run(limit_s=1e-9) is None


def test_rounds_go_on_for_those_who_may_be_the_fastest() -> None:
    a, b, c = (Config({"n": n}) for n in range(3))
    clear = {a: [10.0, 10.01, 9.99], b: [12.0, 12.1, 11.9]}
    assert unsettled(clear) == []
    close = {a: [10.0, 10.4, 9.6], b: [10.1, 10.5, 9.7], c: [20.0, 20.1, 19.9]}
    assert unsettled(close) == [a, b]
    equal = {a: [10.0, 10.001, 9.999], b: [10.0, 10.001, 9.999]}
    assert unsettled(equal) == []


def test_kept_values_are_read_as_the_user_writes_them() -> None:
    assert parse_kept(["w_cache=none|first", "pdl=unset|true", "group=1"]) == {
        "w_cache": ("none", "first"),
        "pdl": (None, True),
        "group": (1,),
    }
    with pytest.raises(UserError, match="knob=value"):
        parse_kept(["group"])


def test_a_stages_part_of_the_layers_is_half_leaders_and_half_what_is_not_far_behind() -> None:
    configs = [Config({"n": n}) for n in range(100)]
    times = [{config: 10 + 0.1 * config["n"] for config in configs}, {configs[50]: 1.0, configs[99]: 9.0}]
    part = leading(times, [configs[70]], 8)
    assert part[:4] == [configs[70], configs[0], configs[50], configs[1]]
    assert len(set(part)) == 8
    assert all(times[0][config] <= 1.25 * 10 for config in part[4:])
    assert part == leading(times, [configs[70]], 8)


def test_what_comes_first_of_a_product_is_a_product() -> None:
    ones, twos = ([Config({knob: n}) for n in range(count)] for knob, count in (("a", 4), ("b", 2)))
    pairs = product_by_rank(ones, twos)
    assert len(set(pairs)) == 8
    assert set(pairs[:2]) == {LayerConfig(one, twos[0]) for one in ones[:2]}


def test_a_bounded_space_has_the_default_first_and_kept_values_only() -> None:
    space = load_backend("triton").space(LAYER, 1, Stage.STAGE1, H100)
    configs = bounded(space, {"num_warps": (1, 2)}, most=20)
    assert configs[0] == space.default
    assert len(configs) == len(set(configs)) == 20
    assert {config["num_warps"] for config in configs[1:]} <= {1, 2}


def test_layers_are_a_product_of_leaders_and_others_beside_the_default(tmp_path: Path) -> None:
    whole = recording()
    kept = {"pdl": (None,), "tile_m": (16,), "reduce": ("loop",)}
    configs = {
        stage: bounded(whole.backend.space(LAYER, 1, stage, H100), {**KEPT[stage], **kept}, most=3)
        for stage in Stage
    }
    layered = replace(whole, configs=configs, settings=replace(whole.settings, layers=(2, 2)))
    with Recorder(layered, tmp_path / "l.journal", lambda _: None) as recorder:
        table = recorder.run()
    assert table is not None
    assert table.lacks is None
    pairs = table.layers.keys()
    assert LayerConfig(*(configs[stage][0] for stage in Stage)) in pairs
    assert len(pairs) == 4 == len({p.stage1 for p in pairs}) * len({p.stage2 for p in pairs})
    for outcomes in table.layers.values():
        assert set(outcomes) == {1, 2}
        for outcome in outcomes.values():
            assert isinstance(outcome, LayerMeasurement)
            assert outcome.default_us
            assert outcome.error < 0.02
    write_table(table, tmp_path / "t")
    assert read_table(tmp_path / "t").layers.keys() == pairs
