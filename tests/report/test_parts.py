"""What the report's times stand on: byte limits, deciding rounds, importance, axes, markup."""

from dataclasses import replace

import pytest

from autotune.problem.layer import Problem, Stage
from autotune.problem.routing import Routing
from autotune.report.axis import Axis, around
from autotune.report.configs import changes, layer_changes
from autotune.report.content import Scope, gather
from autotune.report.effects import effects, heat_maps, ordered
from autotune.report.finals import deciding, of_confirmation
from autotune.report.limits import byte_limit
from autotune.report.markup import join, tag
from autotune.results import Round, Status
from autotune.space.config import Config
from autotune.store.store import Store
from tests.store.examples import DEFAULT, FASTER, LAYER, M4, begin, confirm, confirmation, failed, trial


def test_the_byte_limit_is_the_layer_s_weights_over_the_datasheet_s_bandwidth() -> None:
    limit = byte_limit(M4, "triton", "AMD Instinct MI325X")
    assert limit is not None
    # 31 experts of 1.835 MB and 0.918 MB at 6 TB/s.
    assert limit.us["stage1"] == pytest.approx(9.5, abs=0.05)
    assert limit.us["stage2"] == pytest.approx(4.8, abs=0.1)
    assert limit.us["layer"] == pytest.approx(limit.us["stage1"] + limit.us["stage2"])
    assert limit.fraction("layer", 2 * limit.us["layer"]) == 0.5
    assert limit.source == "6.00 TB/s, mi325x's datasheet"


def test_int8_weights_are_twice_the_bytes_less_the_scales() -> None:
    narrow, wide = (byte_limit(M4, backend, "MI325X") for backend in ("triton", "sglang"))
    assert narrow is not None
    assert wide is not None
    assert wide.us["stage1"] / narrow.us["stage1"] == pytest.approx(2, abs=0.01)


def test_there_is_no_limit_where_bandwidth_or_bytes_are_not_known() -> None:
    assert byte_limit(M4, "triton", "Some new card") is None
    assert byte_limit(M4, "mine:Backend", "MI325X") is None


def test_other_routing_is_marked_since_it_reads_fewer_bytes() -> None:
    limit = byte_limit(Problem(LAYER, 4, 1, Routing("correlated", 0.5)), "triton", "MI325X")
    assert limit is not None
    assert not limit.uniform


def _round(*timed: bool) -> Round:
    return Round(tuple({"layer": 10.0 + index} if one else {} for index, one in enumerate(timed)))


def test_the_rounds_that_decided_are_the_last_ones_of_the_chosen_few() -> None:
    choosing, judging = [_round(True, True, True)] * 4, [_round(True, False, True)] * 6
    assert deciding([*choosing, *judging], None) == judging
    assert deciding([*choosing, *judging], 6) == judging


def test_where_all_took_part_to_the_end_the_run_s_record_tells_them_apart() -> None:
    rounds = [_round(True, True)] * 10
    assert len(deciding(rounds, 8)) == 8
    assert len(deciding(rounds, None)) == 10
    assert deciding([], 8) == []


def test_a_winner_s_gain_is_the_one_on_record_and_times_have_intervals(store: Store, run: int) -> None:
    rounds = tuple(Round(({"layer": 100.0 + i % 3}, {"layer": 90.0 + i % 4})) for i in range(8))
    confirmed = confirm(store, run, confirmation(rounds=rounds))
    default, winner = of_confirmation(store.confirmation(confirmed), 8)
    assert (default.label, default.config, default.gain) == ("default", DEFAULT, None)
    assert (winner.label, winner.config) == ("winner", FASTER)
    assert winner.gain is not None
    assert (winner.gain.value, winner.gain.low, winner.gain.high) == (0.1, 0.08, 0.12)
    us = winner.us["layer"]
    assert us.low <= us.value <= us.high


def _grid() -> list[tuple[Config, float]]:
    """b decides, a adds a little, c does nothing and d never varies."""
    return [
        (Config({"a": a, "b": b, "c": c, "d": 1}), 10.0 * b + 0.3 * a)
        for a in (1, 2)
        for b in (1, 2, 4)
        for c in (None, True)
    ]


def test_importance_is_the_share_of_the_variance_that_a_knob_explains(store: Store) -> None:
    run = begin(store)
    for config, us in _grid():
        store.record_trial(run, trial(config=config, time_us=us))
    found = effects(store.trials_of(run))
    assert found[0].knob == "b"
    shares = {effect.knob: effect.share for effect in found}
    assert shares["b"] > 0.95
    assert shares["a"] < 0.05
    assert shares["c"] == 0  # less than as many groups would show by chance
    assert "d" not in shares
    by_value = {value.value: value for value in found[0].values}
    assert (by_value[4].count, by_value[4].best_us) == (4, pytest.approx(40.3))


def test_a_heat_map_holds_the_fastest_of_each_pair_and_leaves_out_the_untried(store: Store) -> None:
    run = begin(store)
    for config, us in _grid()[:-2]:
        store.record_trial(run, trial(config=config, time_us=us))
    heat = heat_maps(store.trials_of(run))[0]
    assert (heat.row, heat.column) == ("b", "a")
    assert heat.cells[1, 2].best_us == pytest.approx(10.6)
    assert heat.cells[1, 2].count == 2
    assert (4, 2) not in heat.cells


def test_nothing_with_a_time_has_no_effects() -> None:
    assert effects([]) == []
    assert heat_maps([]) == []


def test_values_stand_in_the_order_that_people_expect() -> None:
    assert ordered({"b": 0, 8: 0, None: 0, 16: 0, True: 0, "a": 0}) == [None, True, 8, 16, "a", "b"]


def test_a_config_is_told_by_what_differs_from_what_ships() -> None:
    ships = Config({"a": 1, "b": None})
    assert changes(Config({"a": 2, "b": None}), ships) == "a=2"
    assert changes(ships, ships) == "default"
    assert changes(Config({"a": True, "b": None}), ships) == "a=true"  # not 1
    assert changes(Config({"a": 1, "b": None}), None) == "a=1,b=unset"
    assert layer_changes(FASTER, DEFAULT) == "stage1: tile_k=256; stage2: tile_k=64"
    assert layer_changes(replace(DEFAULT, stage2=FASTER.stage2), DEFAULT) == "stage2: tile_k=64"


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("low", "high"), [(43.4, 44.4), (21.99, 21.991), (3, 5000), (7, 7), (0.02, 0.9)])
def test_an_axis_has_a_few_round_ticks_within_it(low: float, high: float, log: bool) -> None:
    axis = around([low, high], log=log)
    assert 2 <= len(axis.ticks) <= 9
    assert axis.ticks == sorted(axis.ticks)
    for tick in axis.ticks:
        assert 0 <= axis.place(tick) <= 100
    assert axis.place(low) <= axis.place(high)


def test_places_are_in_percent_and_never_outside() -> None:
    assert [Axis(0, 10).place(value) for value in (0, 5, 10, 99, -1)] == [0, 50, 100, 100, 0]
    assert Axis(1, 100, log=True).place(10) == pytest.approx(50)


def test_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "a<b & c", tag("b", "d"), None) == "<p>a&lt;b &amp; c<b>d</b></p>"
    assert tag("i", title='say "x"', hidden=True, class_=None) == '<i title="say &quot;x&quot;" hidden></i>'
    assert join("<", tag("br")) == "&lt;<br>"


def test_a_leader_that_was_measured_again_is_one_candidate_with_the_mean_of_its_windows(store: Store) -> None:
    run = begin(store)
    for origin, us in (("default", 40.0), ("race", 42.0), ("race", 44.0)):
        store.record_trial(run, trial(origin=origin, time_us=us))
    (one,) = gather(store, Scope()).problems
    (candidate,) = one.trials[Stage.STAGE1]
    assert (candidate.origin, candidate.time_us) == ("default", 42.0)
    assert len(one.rows) == 3  # all of them go into CSV and Parquet


def test_a_leader_that_failed_when_measured_again_has_failed(store: Store) -> None:
    run = begin(store)
    store.record_trial(run, trial())
    store.record_trial(run, failed(Status.INCORRECT, origin="race"))
    (one,) = gather(store, Scope()).problems
    (candidate,) = one.trials[Stage.STAGE1]
    assert (candidate.status, candidate.time_us) == (Status.INCORRECT, None)
