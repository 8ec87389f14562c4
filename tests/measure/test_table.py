"""A table of settings: all in every round, equal programs once, nothing decided."""

from dataclasses import replace
from itertools import pairwise

from autotune.measure.confirm import COMPARE_SEED, JUDGE_SEED, SELECT_SEED
from autotune.measure.settings import MeasureSettings
from autotune.measure.table import TABLE_JUDGE_SEED, TABLE_SELECT_SEED, time_all
from autotune.results import Confirmation, Failure
from tests.measure.test_confirm import DIED, PROBLEM, Card, finalists

SETTINGS = MeasureSettings(select_rounds=2, judge_rounds=4)


def table(card: Card, *labels: str, twins: dict[int, int] | None = None) -> Confirmation:
    return time_all(PROBLEM, finalists(*labels), lambda index: 1e-3, card, SETTINGS, twins or {})


def test_everyone_runs_in_every_round_and_nothing_is_decided() -> None:
    card = Card([10.0, 9.0, 12.0])
    made = table(card, "default", "setting 1", "setting 2")
    assert len(made.rounds) == 6
    assert all(one.us[index] for one in made.rounds for index in range(3))
    assert (made.winner, made.gain) == (0, 0.0)
    seeds = [seed for index, seed in card.asked if index == 0]
    assert (
        seeds == [TABLE_SELECT_SEED] * 2 + [TABLE_JUDGE_SEED, TABLE_JUDGE_SEED] + [TABLE_JUDGE_SEED + 1] * 2
    )


def test_its_routings_are_nobody_elses() -> None:
    offsets = sorted([SELECT_SEED, JUDGE_SEED, COMPARE_SEED, TABLE_SELECT_SEED, TABLE_JUDGE_SEED])
    assert min(b - a for a, b in pairwise(offsets)) > 100_000


def test_an_equal_program_is_timed_once_and_shares_the_times() -> None:
    card = Card([10.0, 9.0, 12.0])
    made = table(card, "default", "setting 1", "setting 2", twins={2: 0})
    assert {index for index, _ in card.asked} == {0, 1}
    assert all(one.us[2] == one.us[0] for one in made.rounds)
    assert made.notes == (
        "setting 2 is the same program as default here",
        "a table of settings: nothing is decided here",
    )
    assert made.errors == (1e-3,) * 3


def test_who_fails_is_left_out_with_his_twins() -> None:
    card = Card([10.0, 9.0, 12.0])
    card.dies = {1: 5}
    made = table(card, "default", "setting 1", "setting 2", twins={2: 1})
    assert made.errors[1] is made.errors[2] is None
    assert made.errors[0] is not None
    assert made.notes[1] == f"setting 1 was not timed: {DIED.status}: {DIED.reason}"


def test_who_fails_the_gate_is_left_out_with_his_twins_and_the_others_go_on() -> None:
    def gate(index: int) -> float | Failure:
        return DIED if index == 1 else 1e-3

    card = Card([10.0, 9.0, 12.0, 8.0])
    settings = replace(SETTINGS, seed=7)
    labels = ("default", "setting 1", "setting 2", "setting 3")
    made = time_all(PROBLEM, finalists(*labels), gate, card, settings, {3: 1})
    assert made.errors == (1e-3, None, 1e-3, None)
    assert {index for index, _ in card.asked} == {0, 2}
    assert {seed for _, seed in card.asked} == {
        *(TABLE_SELECT_SEED + 7, TABLE_JUDGE_SEED + 7, TABLE_JUDGE_SEED + 8),
    }
    assert (made.gain, made.gain_low, made.gain_high, made.winner) == (0.0, 0.0, 0.0, 0)


def test_nothing_is_timed_where_the_default_fails() -> None:
    def gate(index: int) -> float | Failure:
        return 1e-3 if index else DIED

    settings = replace(SETTINGS, seed=7)
    made = time_all(PROBLEM, finalists("default", "setting 1"), gate, Card([1.0, 1.0]), settings, {})
    assert made.rounds == ()
    assert made.errors[0] is None
