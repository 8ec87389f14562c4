"""How one setting of the process is chosen, put to the test and told, on tables made by hand."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.export import process_setting
from autotune.export.process_setting import (
    SettingsTable,
    TimedShape,
    choose,
    decide_setting,
    decision_json,
    decision_lines,
    deployed,
    gain_text,
    put_to_test,
)
from autotune.export.shape_log import LoggedShape, ShapeLog
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem
from autotune.protocol import mix as mixes
from autotune.protocol.mix import Mix, MixCandidate, MixDecision
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.space.config import Config
from autotune.statistics import Interval
from tests.export.winners import KIMI, winner

MEASURING = MeasureSettings(select_rounds=2, judge_rounds=4, resamples=200)
A, B = (("A", "1"),), (("B", "1"),)


def config(**knobs: Any) -> LayerConfig:
    one = Config({"A": None, "B": None, **knobs})
    return LayerConfig(one, one)


class Knobs:
    """A knob is a variable of its name; both stages have the same."""

    bucket = None

    def variables(self, config: LayerConfig, default: LayerConfig) -> dict[str, str]:
        return {k: str(v) for k, v in config.stage1.items() if v is not None and v != default.stage1[k]}

    def overlay(self, default: LayerConfig, variables: Mapping[str, str]) -> LayerConfig:
        changes = {name: int(value) for name, value in variables.items()}
        return LayerConfig(default.stage1.replaced(**changes), default.stage2.replaced(**changes))


KNOBS: Any = Knobs()


def shape(
    tokens: int, choosing: list[list[float | None]], testing: list[list[float | None]], *,
    labels: tuple[str, ...] = ("default", "setting 1", "setting 2"), run: int = 1,
    configs: tuple[LayerConfig, ...] = (config(), config(A=1), config(B=1)),
    errors: tuple[float | None, ...] = (1e-3, 1e-3, 1e-3),
    measuring: MeasureSettings = MEASURING,
) -> TimedShape:  # fmt: skip
    """A shape's table: microseconds of the finalists by round; None: it failed in that round."""
    rounds = tuple(
        Round(tuple({} if us is None else {"layer": us, "stage1": 99.0} for us in times))
        for times in (*choosing, *testing)
    )
    problem = Problem(KIMI, tokens) if tokens <= 8 else Problem(KIMI, 1, tokens)
    finalists = tuple(Finalist(label, c) for label, c in zip(labels, configs, strict=True))
    table = Confirmation(problem, finalists, rounds, errors, 0, 0.0, 0.0, 0.0)
    return TimedShape(run, table, measuring)


def table(*shapes: TimedShape, program: Any = lambda tokens, config: (tokens, config.key)) -> SettingsTable:
    return SettingsTable(shapes, KNOBS, program)


def even(tokens: int, us: list[float], tested: list[float] | None = None, **more: Any) -> TimedShape:
    """A shape whose rounds are all alike."""
    return shape(tokens, [list(us)] * 2, [list(tested or us)] * 4, **more)


# The table.


def test_settings_are_what_their_labels_have_at_all_shapes_and_the_default_is_first() -> None:
    """A variable that repeats a shape's default does not show there."""
    both = (config(), config(A=1), config(A=1, B=1))
    repeats = (config(A=1), config(A=1), config(A=1, B=1))
    made = table(even(4, [10, 9, 8], configs=both), even(8, [10, 9, 8], configs=repeats))
    assert made.settings == ((), A, (("A", "1"), ("B", "1")))
    # Equal labels of another run are other settings.
    other = table(
        even(4, [10, 9, 8]), even(8, [10, 9, 8], run=2, configs=(config(), config(B=1), config(A=1)))
    )
    assert other.settings == ((), A, B)


def test_the_last_of_several_tables_for_a_count_and_the_newest_conditions_count() -> None:
    newer = replace(MEASURING, min_gain=0.3)
    made = table(even(4, [10, 9, 8]), even(4, [20, 9, 8], measuring=newer))
    assert made.choosing()[()] == {4: 20.0}
    assert made.measuring is newer


def test_what_is_chosen_by_are_the_medians_of_the_first_rounds() -> None:
    made = table(shape(4, [[10, 9, None], [12, 9, None]], [[1, 1, 1]] * 4), even(8, [20, 18, 16]))
    assert made.tokens == [4, 8]
    assert made.choosing() == {(): {4: 11.0, 8: 20.0}, A: {4: 9.0, 8: 18.0}, B: {8: 16.0}}


def test_a_shape_whose_default_failed_tells_nothing() -> None:
    made = table(even(4, [10, 9, 8], errors=(None, 1e-3, 1e-3)), even(8, [10, 9, 8]))
    assert made.tokens == [8]
    assert made.choosing()[A] == {8: 9.0}


def test_what_is_tested_are_the_other_rounds_and_a_setting_that_failed_has_none() -> None:
    rounds: list[list[float | None]] = [[10, 9, 8], [11, 9, None], [12, 9, 8], [13, 9, 8]]
    made = table(shape(4, [[1, 1, 1]] * 2, rounds, errors=(1e-3, None, 1e-3)))
    assert made.testing(B, 4) == ([8, 8, 8], [10, 11, 12, 13])
    assert made.testing(A, 4) == ([], [])


def test_equal_programs_are_one_place_the_first_that_did_not_fail() -> None:
    def program(tokens: int, launched: LayerConfig) -> str:
        return "default" if launched == config() else "other"

    assert table(even(4, [10, 9, 8], errors=(1e-3, None, 1e-3)), program=program).testing(A, 4)[0] == [8] * 4
    assert table(even(4, [10, 9, 8]), program=program).testing(B, 4)[0] == [9] * 4


# The test.


def of_a(made: SettingsTable, mix: Mix) -> mixes.Tested[Any]:
    return put_to_test(made, A, mix)


MIX = Mix.of({4: 1.0, 8: 1.0}, guards=(64,))


def test_a_setting_is_tested_over_the_mix_and_at_each_shape_and_guard() -> None:
    made = table(even(4, [10, 9, 8]), even(8, [30, 24, 8]), even(64, [100, 100.5, 8]))
    told = of_a(made, MIX)
    assert (told.setting, told.failed, told.unsafe) == (A, "", False)
    assert told.mean.value == pytest.approx(1 - 33 / 40)
    assert {tokens: round(gain.value, 6) for tokens, gain in told.gains.items()} == {
        4: 0.1,
        8: 0.2,
        64: -0.005,
    }


def test_a_setting_that_failed_in_a_round_is_unsafe() -> None:
    rounds: list[list[float | None]] = [[10, 9, 8], [10, None, 8], [10, 9, 8], [10, 9, 8]]
    made = table(shape(4, [[10, 9, 8]] * 2, rounds), even(8, [30, 24, 8]), even(64, [1, 1, 1]))
    nothing = Interval(0.0, 0.0, 0.0)
    assert of_a(made, MIX) == mixes.Tested(A, nothing, {}, "failed in a round at 4 tokens", unsafe=True)
    gone = table(even(1, [10, 9, 8], errors=(1e-3, None, 1e-3)))
    told = of_a(gone, Mix.of({1: 1.0}, guards=()))
    assert (told.failed, told.unsafe) == ("failed in a round at 1 token", True)


def test_a_guard_that_may_lose_more_than_the_margin_is_lost_with_its_interval() -> None:
    made = table(even(4, [10, 9, 8]), even(8, [30, 24, 8]), even(64, [100, 102, 8]))
    told = of_a(made, MIX)
    assert told.unsafe
    assert told.failed == (
        "not surely within 1.0% of the default at 64 tokens: -2.0% (95% CI -2.0% to -2.0%)"
    )
    assert set(told.gains) == {4, 8, 64}
    lenient = Mix.of({4: 1.0, 8: 1.0}, guards=(64,), margin=0.021)
    assert of_a(made, lenient).failed == ""


def test_a_gain_that_is_not_surely_above_the_least_is_too_little_but_safe() -> None:
    made = table(even(4, [1000, 991, 8]), even(8, [1000, 991, 8]), even(64, [1, 1, 1]))
    told = of_a(made, MIX)
    assert not told.unsafe
    assert told.failed == "its gain over the mix is not surely above 1.0%: +0.9% (95% CI +0.9% to +0.9%)"
    for least, failed in ((0.25, False), (0.5, True)):  # the least itself is not above it
        half = replace(MEASURING, min_gain=least)
        made = table(even(4, [10, 5, 8]), even(8, [10, 5, 8]), even(64, [1, 1, 1], measuring=half))
        assert bool(of_a(made, MIX).failed) is failed


def test_the_mixs_time_is_the_shares_sum_in_as_many_rounds_as_all_shapes_have() -> None:
    times = {4: [1.0, 2.0, 3.0], 8: [10.0, 20.0], 64: [5.0]}
    assert process_setting._of_mix(times, Mix.of({4: 3.0, 8: 1.0}, guards=(64,))) == [3.25, 6.5]


def test_a_gain_is_told_with_its_interval_whose_ends_change_places() -> None:
    gain = process_setting._gain([9.0, 9.0, 8.0, 8.0], [10.0] * 4, MEASURING)
    assert gain.low <= gain.value <= gain.high
    assert (gain.low, gain.high) == (pytest.approx(0.1), pytest.approx(0.2))
    assert gain_text(Interval(0.188, 0.186, 0.195)) == "+18.8% (95% CI +18.6% to +19.5%)"


# The choice.


def test_the_best_of_the_mix_is_tested_and_exported_if_it_holds() -> None:
    made = table(even(4, [10, 9, 8]), even(8, [30, 24, 20]), even(64, [100, 100, 100]))
    decision = choose(made, MIX, [4])
    assert decision.setting == B
    assert decision.tested is not None
    assert decision.tested.setting == B
    assert [line.setting for line in decision.candidates] == [B, A, ()]
    assert not any(line.refused for line in decision.candidates)


def test_what_is_unsafe_in_the_test_gives_way_to_the_next() -> None:
    made = table(
        even(4, [10, 9, 8]), even(8, [30, 24, 20]), even(64, [100, 100, 100], tested=[100, 100, 103])
    )
    decision = choose(made, MIX, [4])
    assert decision.setting == A
    assert decision.tested is not None
    assert decision.tested.setting == A
    refused = {line.setting: line.refused for line in decision.candidates}
    assert refused[B].startswith("not surely within 1.0% of the default at 64 tokens")
    assert refused[A] == ""


def test_only_one_gain_is_tested_and_a_little_one_keeps_the_default() -> None:
    made = table(
        even(4, [10, 9, 8], tested=[10, 9, 9.99]),
        even(8, [30, 24, 20], tested=[30, 24, 29.99]),
        even(64, [9, 9, 9]),
    )
    decision = choose(made, MIX, [4])
    assert decision.setting == ()
    assert decision.tested is not None
    assert decision.tested.setting == B
    assert not any(line.refused for line in decision.candidates)


def test_where_nothing_beats_the_default_nothing_is_tested() -> None:
    made = table(even(4, [10, 11, 12]), even(8, [30, 31, 32]), even(64, [9, 9, 9]))
    decision = choose(made, MIX, [4])
    assert (decision.setting, decision.tested) == ((), None)


def test_where_all_are_unsafe_the_default_stays() -> None:
    made = table(even(4, [10, 9, 8]), even(8, [30, 24, 20]), even(64, [9, 9, 9], tested=[9, 10, 10]))
    decision = choose(made, MIX, [4])
    assert decision.setting == ()
    assert [bool(line.refused) for line in decision.candidates] == [True, True, False]


def test_without_a_mix_every_tuned_shape_weighs_the_same() -> None:
    made = table(even(4, [10, 9, 8]), even(8, [30, 24, 20]), even(64, [9, 9, 9]))
    decision = choose(made, Mix({}, (64,), 0.02), [8, 4])
    assert decision.mix == Mix({4: 0.5, 8: 0.5}, (64,), 0.02)


@pytest.mark.parametrize(
    ("mix", "what"),
    [
        (Mix.of({4: 1.0}, guards=(64, 512, 4096)), "guards 512, 4096"),
        (Mix.of({4: 1.0}, guards=(512, 4096)), "guards 512, 4096"),
        (Mix.of({4: 1.0, 2: 1.0}, guards=(64,)), "shapes 2"),
        (Mix.of({4: 1.0, 2: 1.0}, guards=(512,)), "shapes 2, 512"),
    ],
)
def test_what_was_not_timed_is_named_with_how_to_get_it(mix: Mix, what: str) -> None:
    made = table(even(4, [10, 9, 8]), even(64, [9, 9, 9]))
    with pytest.raises(UserError) as told:
        choose(made, mix, [4])
    assert str(told.value) == (
        f"the {what} were not timed, so what a setting of the whole process does there is not known: repeat"
        " autotune run with these --guards and all shapes at once, or name others here with --guards and"
        " --mix"
    )


# From the database.


class Stored:
    """A database of settings' tables by run."""

    def __init__(self, **tables: list[TimedShape]) -> None:
        self._tables = {int(run.removeprefix("run")): shapes for run, shapes in tables.items()}

    def tables(self, run: int) -> list[Any]:
        return [SimpleNamespace(confirmation=shape.table) for shape in self._tables[run]]

    def run(self, run: int) -> Any:
        return SimpleNamespace(spec={"measuring": asdict(replace(MEASURING, seed=run))})


def decided(store: Stored, *winners: Any, mix: Mix = MIX, log: ShapeLog | None = None) -> Any:
    return decide_setting(store, winners, KNOBS, None, mix, log)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        process_setting, "program_of", lambda backend, layer: lambda tokens, config: config.key
    )


def confirmed(tokens: int, run: int = 1, **changes: Any) -> Any:
    return replace(winner(tokens), run=run, confirmation=7, **changes)


SHAPES = [even(4, [10, 9, 8]), even(8, [30, 24, 20]), even(64, [9, 9, 9])]


def test_the_tables_are_those_of_the_winners_runs_oldest_first() -> None:
    store = Stored(run1=SHAPES, run2=[even(4, [10, 7, 8])], run3=[even(4, [10, 1, 1])])
    decision = decided(store, confirmed(8, run=2), confirmed(4, run=1), confirmed(4, run=2))
    assert {line.setting: line.gains[4] for line in decision.candidates}[A] == pytest.approx(0.3)
    read = SettingsTable.read(store, [confirmed(8, run=2), confirmed(4)], KNOBS, None)  # type: ignore[arg-type]
    assert read.measuring.seed == 1  # of the last shape


def test_a_recorded_log_takes_the_mixs_place_and_its_notes_are_kept() -> None:
    log = ShapeLog("/logs/l", {LoggedShape(4): 3, LoggedShape(8): 1, LoggedShape(9): 1}, counted=True)
    decision = decided(Stored(run1=SHAPES), confirmed(4), mix=Mix({}, (64,), 0.03), log=log)
    assert decision.mix == Mix({4: 0.75, 8: 0.25}, (64,), 0.03)
    assert len(decision.notes) == 1
    assert decided(Stored(run1=SHAPES), confirmed(4)).notes == ()


def test_one_estimate_is_exported_as_it_is_and_several_cannot_be_chosen_from() -> None:
    assert decided(Stored(), winner(4)) is None
    with pytest.raises(UserError) as told:
        decided(Stored(), winner(4), confirmed(8))
    assert str(told.value) == (
        "a setting for several shapes is chosen from confirmations, and estimates have none: run on the GPU,"
        " or export one shape"
    )


def test_without_tables_only_kept_defaults_can_be_deployed() -> None:
    kept = confirmed(4, config=winner(4).default)
    assert decided(Stored(run1=[]), kept) == MixDecision((), MIX, ())
    won = confirmed(8, config=config(A=1))
    assert not won.kept_default
    with pytest.raises(UserError) as told:
        decided(Stored(run1=[]), kept, won)
    assert str(told.value) == (
        "the winners' runs have timed no setting of the whole process at every shape and guard, and one"
        " serves them all: repeat autotune run --backend sglang, which then says why"
    )


# What is deployed and told.

TESTED: mixes.Tested[Any] = mixes.Tested(
    A, Interval(0.15, 0.14, 0.16), {4: Interval(0.1, 0.09, 0.11), 64: Interval(-0.005, -0.006, -0.004)}, ""
)
CANDIDATES = (
    MixCandidate(A, {4: 0.1, 64: -0.005}, 0.1, ""),
    MixCandidate(B, {4: 0.2}, None, "not measured at 64 tokens"),
    MixCandidate((), {4: 0.0, 64: 0.0}, 0.0, ""),
)
DECISION: MixDecision[Any] = MixDecision(A, Mix.of({4: 1.0}, guards=(64,)), CANDIDATES, TESTED, ("a note",))


def test_a_winner_is_deployed_as_the_setting_makes_it_with_what_was_tested_there() -> None:
    default = config(B=1)
    winners = [replace(confirmed(tokens), default=default) for tokens in (4, 8)]
    four, eight = deployed(winners, KNOBS, DECISION)
    assert four.config == config(A=1, B=1)
    assert (four.gain, four.gain_low, four.gain_high) == (0.1, 0.09, 0.11)
    # Where nothing was tested, no gain is told.
    assert (eight.config, eight.gain, eight.gain_low, eight.gain_high) == (config(A=1, B=1), 0.0, 0.0, 0.0)
    repeats = replace(winners[0], default=config(A=1))
    (same,) = deployed([repeats], KNOBS, DECISION)
    assert (same.config, same.gain) == (config(A=1), 0.0)
    (untested,) = deployed(winners[:1], KNOBS, replace(DECISION, tested=None))
    assert (untested.gain, untested.gain_low, untested.gain_high) == (0.0, 0.0, 0.0)


def test_the_manifest_has_the_whole_decision() -> None:
    assert decision_json(DECISION) == {
        "mix": {"4": 1.0},
        "guards": [64],
        "margin": 0.01,
        "notes": ["a note"],
        "candidates": [
            {
                "variables": {"A": "1"}, "gain_of_mix": 0.1, "gains": {"4": 0.1, "64": -0.005},
                "refused": "", "chosen": True,
            },
            {
                "variables": {"B": "1"}, "gain_of_mix": None, "gains": {"4": 0.2},
                "refused": "not measured at 64 tokens", "chosen": False,
            },
            {
                "variables": {}, "gain_of_mix": 0.0, "gains": {"4": 0.0, "64": 0.0},
                "refused": "", "chosen": False,
            },
        ],
        "tested": {
            "variables": {"A": "1"},
            "gain_of_mix": 0.15,
            "gain_95": [0.14, 0.16],
            "gains_95": {"4": [0.09, 0.11], "64": [-0.006, -0.004]},
            "failed": "",
        },
    }  # fmt: skip
    assert decision_json(replace(DECISION, tested=None))["tested"] is None


def test_the_decision_is_told_in_a_table_and_the_test_below_it() -> None:
    assert list(decision_lines(DECISION)) == [
        "One setting for every shape, over the mix 4: 100%; guards 64 may lose up to 1.0%.",
        "  a note",
        "          4       64      mix  setting",
        "     +10.0%    -0.5%   +10.0%  chosen: A=1",
        "     +20.0%        -        -  B=1 (refused: not measured at 64 tokens)",
        "       0.0%     0.0%     0.0%  every knob unset",
        "  Tested on other routings: A=1: mix +15.0% (95% CI +14.0% to +16.0%); confirmed",
        "         4 tokens +10.0% (95% CI +9.0% to +11.0%)",
        "        64 tokens -0.5% (95% CI -0.6% to -0.4%)",
    ]


def test_a_test_that_failed_and_a_mix_without_guards_are_told_as_such() -> None:
    failed = replace(TESTED, failed="too little", gains={})
    mix = Mix.of({4: 3.0, 160: 1.0}, guards=())
    told = list(decision_lines(replace(DECISION, setting=(), mix=mix, tested=failed, notes=())))
    assert told[0] == (
        "One setting for every shape, over the mix 4: 75%, 160: 25%; no guards: nothing is known of prefill."
    )
    assert told[1] == "          4      160      mix  setting"
    assert told[4] == "       0.0%        -     0.0%  chosen: every knob unset"
    assert told[-1] == (
        "  Tested on other routings: A=1: mix +15.0% (95% CI +14.0% to +16.0%); kept default: too little"
    )
    assert list(decision_lines(MixDecision((), mix, ()))) == [
        "Every shape kept the default, so every knob stays unset."
    ]
    assert len(list(decision_lines(replace(DECISION, tested=None)))) == 6
