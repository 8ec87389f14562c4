"""One setting of the process for every shape, from the tables that a run stores."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from autotune.backends.aiter.knobs import PUBLISHED
from autotune.errors import UserError
from autotune.export.export import Plan, Selection, plan
from autotune.export.process_setting import decision_lines
from autotune.export.shape_log import LoggedShape, ShapeLog
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem, Stage
from autotune.protocol.exporter import Place
from autotune.protocol.mix import UNTOLD, Mix
from autotune.protocol.process_knobs import shared_finalists, shared_settings
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.space.config import Config
from autotune.store.store import Store
from tests.export.winners import KIMI, fingerprint

MEASURING = MeasureSettings(select_rounds=2, judge_rounds=4, resamples=200)
ENVIRONMENT = fingerprint(backend="flydsl", kernel_source="published 123 flydsl 0.1.5")
BLOCKS = {4: 16, 160: 32, 64: 16, 512: 32, 4096: 64}
DEFAULT_US = {4: 10.0, 160: 40.0, 64: 20.0, 512: 90.0, 4096: 500.0}
MIX = Mix.of({4: 1.0, 160: 1.0})


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open() as store:
        yield store


def flydsl(tile_m: int = 16, **knobs: bool | int | str) -> LayerConfig:
    """FlyDSL's default of the published generation at a block size, with changes by `STAGE_KNOB`."""
    one: dict[str, bool | int | str] = {
        "tile_m": tile_m,
        "tile_n": 64,
        "tile_k": 256 if tile_m == 16 else 128,
        "sched": True,
    }
    two: dict[str, bool | int | str] = {
        "tile_m": tile_m,
        "tile_n": 256,
        "tile_k": 64,
        "mode": "atomic",
        "sched": True,
    }
    for name, value in knobs.items():
        stage, _, knob = name.partition("_")
        (one if stage == "one" else two)[knob] = value
    return LayerConfig(Config(one), Config(two))


SETTINGS: dict[str, dict[str, bool | int | str]] = {
    "gate": {"one_sched": False},
    "both": {"one_sched": False, "two_tile_k": 256},
}
Factors = dict[int, float]
"""A setting's time over the default's, by tokens; 1 elsewhere."""


def tuned(
    store: Store,
    settings: dict[str, dict[str, bool | int | str]],
    choosing: dict[str, Factors],
    testing: dict[str, Factors] | None = None,
    *,
    shapes: tuple[int, ...] = tuple(BLOCKS),
    won: tuple[int, ...] = (4, 160),
    noise: Factors | None = None,
) -> None:
    """A run: the first setting won the final of each shape in `won`, and all were timed at all shapes.

    Args:
        noise: by tokens, by how much the settings' times are off: up in one pair of rounds, down in the next.
    """
    run = store.begin_run("autotune run", {"measuring": asdict(MEASURING)}, 0, ENVIRONMENT)
    for tokens in won:
        default, best = flydsl(BLOCKS[tokens]), flydsl(BLOCKS[tokens], **next(iter(settings.values())))
        finalists = (Finalist("default", default), Finalist("candidate", best))
        record(store, run, tokens, finalists, [{"layer": 10.0}, {"layer": 8.0}], winner=1)
    for tokens in shapes:
        configs = [flydsl(BLOCKS[tokens], **knobs) for knobs in ({}, *settings.values())]
        labels = ["default", *(f"setting {i + 1}" for i in range(len(settings)))]
        rounds = []
        for number in range(MEASURING.select_rounds + MEASURING.judge_rounds):
            factors = choosing if number < MEASURING.select_rounds else testing or choosing
            scale = DEFAULT_US[tokens] * (1 + 0.001 * number)
            off = 1 + (noise or {}).get(tokens, 0.0) * (1 if number // 2 % 2 else -1)
            us = [scale, *(scale * off * factors[name].get(tokens, 1.0) for name in settings)]
            rounds.append(Round(tuple({"layer": one} for one in us)))
        finalists = tuple(Finalist(label, c) for label, c in zip(labels, configs, strict=True))
        record(store, run, tokens, finalists, rounds=tuple(rounds))


def record(
    store: Store,
    run: int,
    tokens: int,
    finalists: tuple[Finalist, ...],
    us: list[dict[str, float]] | None = None,
    *,
    winner: int = 0,
    rounds: tuple[Round, ...] = (),
) -> None:
    gain = 0.2 if winner else 0.0
    confirmation = Confirmation(
        problem=Problem(KIMI, tokens) if tokens <= 8 else Problem(KIMI, 1, tokens),
        finalists=finalists,
        rounds=rounds or (Round(tuple(us or ())),) * 2,
        errors=(1e-3,) * len(finalists),
        winner=winner,
        gain=gain,
        gain_low=gain,
        gain_high=gain,
    )
    stored = store.record_confirmation(
        run, confirmation, backend="flydsl", environment=ENVIRONMENT, workload="cold"
    )
    if us:
        store.record_winner(run, stored)


def planned(store: Store, mix: Mix = MIX) -> Plan:
    return plan(store, Selection("flydsl"), Place("/b"), mix=mix)


def lines(made: Plan) -> list[str]:
    assert made.decision is not None
    return list(decision_lines(made.decision))


WIDE_TILE_LOSES_PREFILL = {
    "gate": {4: 0.9, 160: 0.95, 64: 0.95},
    "both": {4: 0.8, 160: 0.975, 64: 0.95, 4096: 1.02},
}


def test_the_setting_is_chosen_over_the_mix_and_the_table_is_kept(store: Store) -> None:
    tuned(store, SETTINGS, WIDE_TILE_LOSES_PREFILL)
    made = planned(store)
    path, knob, cache = made.files["autotune.env"].splitlines()[1:]
    assert path == "AITER_W4A8_USE_INT8=1"
    assert knob == "FLYDSL_MOE_STAGE1_SCHED=0"
    # The gate is in no key of FlyDSL's disk cache: a warm one would serve the other kernel.
    assert cache.startswith("FLYDSL_RUNTIME_CACHE_DIR=/tmp/autotune-kernels-")
    table = lines(made)
    assert any("chosen: FLYDSL_MOE_STAGE1_SCHED=0" in line for line in table)
    refused = "AITER_FLYDSL_STAGE2_TILE_K=256 FLYDSL_MOE_STAGE1_SCHED=0 (refused: loses 2.0% at 4,096 tokens)"
    assert any(refused in line for line in table)
    assert any("Tested on other routings: FLYDSL_MOE_STAGE1_SCHED=0: mix +6.0%" in line for line in table)
    manifest = json.loads(made.files["manifest.json"])
    assert [c["chosen"] for c in manifest["decision"]["candidates"]].count(True) == 1
    assert manifest["decision"]["tested"]["gain_95"] == pytest.approx([0.06, 0.06])


def test_the_bundle_has_what_it_deploys_at_a_shape_not_what_won_there_alone(store: Store) -> None:
    tuned(store, {"both": SETTINGS["both"], "gate": SETTINGS["gate"]}, WIDE_TILE_LOSES_PREFILL)
    made = planned(store)
    assert [winner.config for winner in made.winners] == [flydsl(m, one_sched=False) for m in (16, 32)]
    assert [winner.gain for winner in made.winners] == pytest.approx([0.1, 0.05])
    # No binary of these configs was executed, whatever the winners' were.
    manifest = json.loads(made.files["manifest.json"])
    assert {v for w in manifest["winners"] for v in w["executed_on_cpu"].values()} == {None}


def test_what_loses_at_a_guard_in_the_test_gives_way_to_the_next(store: Store) -> None:
    lucky = {"gate": {4: 0.9, 160: 0.9}, "both": {4: 0.8, 160: 0.8, 512: 1.005}}
    honest = {"gate": {4: 0.9, 160: 0.9}, "both": {4: 0.8, 160: 0.8, 512: 1.05}}
    tuned(store, SETTINGS, lucky, honest)
    table = lines(planned(store))
    assert any("chosen: FLYDSL_MOE_STAGE1_SCHED=0" in line for line in table)
    assert any(
        "refused: not surely within 1.0% of the default at 512 tokens: -5.0%" in line for line in table
    )


def test_a_gain_that_is_probably_but_not_surely_above_the_least_keeps_the_default(store: Store) -> None:
    tuned(store, {"gate": SETTINGS["gate"]}, {"gate": {4: 0.98, 160: 0.98}}, noise={4: 0.03, 160: 0.03})
    made = planned(store)
    assert made.decision is not None
    assert made.decision.tested is not None
    assert made.decision.tested.mean.value == pytest.approx(0.02, abs=1e-3)
    assert made.decision.tested.mean.low < MEASURING.min_gain
    assert made.decision.setting == ()


def test_a_guard_that_is_probably_but_not_surely_within_the_margin_is_lost(store: Store) -> None:
    """It neither gains nor loses there in the middle; in half of the rounds it loses 3 %."""
    tuned(store, {"gate": SETTINGS["gate"]}, {"gate": {4: 0.9, 160: 0.9}}, noise={512: 0.03})
    made = planned(store)
    assert made.decision is not None
    assert made.decision.tested is not None
    assert abs(made.decision.tested.gains[512].value) < MIX.margin
    assert made.decision.tested.unsafe
    assert made.decision.setting == ()


def test_a_gain_that_only_the_choosing_rounds_show_keeps_the_default(store: Store) -> None:
    tuned(store, SETTINGS, {"gate": {4: 0.9, 160: 0.9}, "both": {4: 0.8, 160: 0.8}}, {"gate": {}, "both": {}})
    made = planned(store)
    assert "SCHED" not in made.files["autotune.env"]
    assert any("kept default: its gain over the mix is not surely above 1.0%" in line for line in lines(made))
    assert all(winner.kept_default for winner in made.winners)


def test_a_tile_that_is_one_shapes_default_is_a_setting_at_another(store: Store) -> None:
    # 256 is what the engine takes at 4 tokens by itself, and a change at 160.
    tuned(store, {"long": {"one_tile_k": 256}}, {"long": {160: 0.75}}, shapes=(4, 160), won=(160,))
    made = planned(store, Mix.of({4: 1.0, 160: 1.0}, guards=()))
    assert "AITER_FLYDSL_STAGE1_TILE_K=256\n" in made.files["autotune.env"]


def test_without_guards_it_is_refused_and_they_are_named(store: Store) -> None:
    tuned(store, SETTINGS, WIDE_TILE_LOSES_PREFILL, shapes=(4, 160, 64))
    with pytest.raises(UserError, match="the guards 512, 4096 were not timed"):
        planned(store)
    table = lines(planned(store, Mix.of({4: 1.0}, guards=())))
    assert "no guards: nothing is known of prefill" in table[0]


@pytest.mark.parametrize("guards", [(), (64, 512)])
def test_a_guard_that_is_left_out_is_no_traffic(guards: tuple[int, ...], store: Store) -> None:
    tuned(store, SETTINGS, {"gate": {4: 0.95, 160: 0.96}, "both": {4: 0.9, 160: 0.9, 4096: 1.03}})
    made = planned(store, Mix({}, guards))
    assert made.decision is not None
    assert made.decision.mix.weights == {4: 0.5, 160: 0.5}
    assert "AITER_FLYDSL_STAGE2_TILE_K=256\n" in made.files["autotune.env"]


def test_a_recorded_log_is_the_mix_and_what_was_made_of_it_is_kept(store: Store) -> None:
    tuned(store, SETTINGS, WIDE_TILE_LOSES_PREFILL)
    log = ShapeLog(
        "/var/log/shapes",
        {LoggedShape(3): 1, LoggedShape(160): 3, LoggedShape(4, (("E", 1),)): 5},
        counted=True,
    )
    made = plan(store, Selection("flydsl"), Place("/b"), mix=UNTOLD, log=log)
    assert made.decision is not None
    assert made.decision.mix.weights == {4: 0.25, 160: 0.75}
    notes = [
        "shapes: 5 of 9 calls left out, of other layers: 5 of E=1",
        "4 tokens stand for 3 too: the engine's bucket is the same",
    ]
    assert [line.strip() for line in lines(made)[1:3]] == notes
    assert json.loads(made.files["manifest.json"])["decision"]["notes"] == notes


def test_a_shape_of_the_mix_that_no_run_timed_is_named(store: Store) -> None:
    tuned(store, SETTINGS, WIDE_TILE_LOSES_PREFILL)
    with pytest.raises(UserError, match="the shapes 8 were not timed"):
        planned(store, Mix.of({8: 1.0}))


def test_winners_without_a_table_are_refused(store: Store) -> None:
    tuned(store, SETTINGS, WIDE_TILE_LOSES_PREFILL, shapes=())
    with pytest.raises(UserError, match="no setting of the whole process"):
        planned(store, UNTOLD)


def test_where_every_shape_kept_what_ships_no_table_is_needed(store: Store) -> None:
    run = store.begin_run("autotune run", {"measuring": asdict(MEASURING)}, 0, ENVIRONMENT)
    kept = (Finalist("default", flydsl()), Finalist("candidate", flydsl(one_sched=False)))
    record(store, run, 4, kept, [{"layer": 10.0}, {"layer": 11.0}])
    made = planned(store, UNTOLD)
    assert made.files["autotune.env"].splitlines()[1:] == ["AITER_W4A8_USE_INT8=1"]
    assert lines(made) == ["Every shape kept the default, so every knob stays unset."]


def test_a_variable_that_both_stages_read_deploys_what_both_agree_on() -> None:
    unset = {"tile_m": 16, "tile_n": None, "tile_k": None, "sched": None, "grid_trim": None}
    default = LayerConfig(Config(unset), Config({**unset, "mode": None}))
    off = LayerConfig(*(default.of(stage).replaced(grid_trim=False, sched=False) for stage in Stage))
    assert PUBLISHED.variables(off, default) == {
        "AITER_FLYDSL_MOE_GRID_TRIM": "0",
        "FLYDSL_MOE_STAGE1_SCHED": "0",
        "FLYDSL_MOE_STAGE2_SCHED": "0",
    }
    assert PUBLISHED.deployable(off, default)
    half = LayerConfig(off.stage1, default.stage2)
    assert not PUBLISHED.deployable(half, default)


def test_every_shapes_best_comes_before_any_shapes_second_and_goes_to_every_shape() -> None:
    defaults = {4: flydsl(16), 160: flydsl(32), 4096: flydsl(64)}
    best = {
        4: [flydsl(16, one_sched=False), flydsl(16, two_mode="reduce")],
        160: [flydsl(32, two_tile_k=256)],
    }
    gate = (("FLYDSL_MOE_STAGE1_SCHED", "0"),)
    tile = (("AITER_FLYDSL_STAGE2_TILE_K", "256"),)
    mode = (("AITER_FLYDSL_MOE_GEMM2_MODE", "reduce"),)
    assert shared_settings(PUBLISHED, defaults, best) == [gate, tile, mode]
    assert shared_finalists(PUBLISHED, defaults, [gate, tile]) == {
        4: [flydsl(16), flydsl(16, one_sched=False), flydsl(16, two_tile_k=256)],
        160: [flydsl(32), flydsl(32, one_sched=False), flydsl(32, two_tile_k=256)],
        4096: [flydsl(64), flydsl(64, one_sched=False), flydsl(64, two_tile_k=256)],
    }


def test_a_block_size_of_ones_own_cannot_be_deployed() -> None:
    with pytest.raises(UserError, match="no variable"):
        PUBLISHED.variables(flydsl(32), flydsl(16))
