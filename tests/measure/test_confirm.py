"""The final picks the right winner, drops the rest, and prefers the default when in doubt."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from autotune.measure.confirm import (
    COMPARE_SEED,
    JUDGE_SEED,
    SELECT_SEED,
    Comparison,
    RunRound,
    compare,
    confirm,
    interval_of,
    ratio_of,
    run_rounds,
)
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem
from autotune.results import Confirmation, Failure, Finalist, LayerConfig, Round, Status
from autotune.statistics import Interval, Verdict
from tests.measure.fake_runtime import fake_config
from tests.spaces import KIMI

PROBLEM = Problem(KIMI, 4)
SETTINGS = MeasureSettings(resamples=1000)
DIED = Failure(Status.RUNTIME_ERROR, "died")


class Card:
    """Times contenders at their true microseconds, with noise, a routing effect that all share, and drift."""

    def __init__(self, us: Sequence[float], *, noise: float = 0.002, drift: float = 0.0, seed: int = 0):
        self.us, self.noise, self.drift = list(us), noise, drift
        self.rng = np.random.default_rng(seed)
        self.asked: list[tuple[int, int]] = []
        self.dies: dict[int, int] = {}

    def __call__(self, index: int, seed: int) -> dict[str, float] | Failure:
        self.asked.append((index, seed))
        if len(self.asked) >= self.dies.get(index, 1 << 30):
            return DIED
        routing = 1 + 0.02 * np.random.default_rng(seed).standard_normal()
        noise = 1 + self.noise * self.rng.standard_normal()
        return {"layer": self.us[index] * routing * noise * (1 + self.drift * len(self.asked))}


def finalists(*labels: str) -> list[Finalist]:
    configs = [fake_config(10 + i) for i in range(len(labels))]
    return [
        Finalist(label, LayerConfig(config, config)) for label, config in zip(labels, configs, strict=True)
    ]


def final(card: Card, *labels: str, settings: MeasureSettings = SETTINGS) -> Confirmation:
    return confirm(PROBLEM, finalists(*labels), lambda index: 1e-3, card, settings)


def test_a_winner_must_be_surely_better_by_the_least_gain() -> None:
    result = final(Card([10, 9.5, 9.9, 12]), "default", "candidate", "candidate", "candidate")
    assert result.winner == 1
    assert result.gain == pytest.approx(0.05, abs=0.005)
    assert result.gain_low > 0.01
    assert result.gain_low < result.gain < result.gain_high


def test_a_gain_below_the_least_one_keeps_the_default_and_says_so() -> None:
    result = final(Card([10, 9.95]), "default", "candidate")
    assert (result.winner, result.gain, result.gain_low, result.gain_high) == (0, 0, 0, 0)
    assert "kept default" in result.notes[-1]
    assert "gain of 0." in result.notes[-1]


def test_a_gain_that_is_probably_but_not_surely_above_the_least_keeps_the_default() -> None:
    """3 % noise on 10 against 9.8: the median says 2.4 %, and its 95 % interval reaches below 1 %."""
    card = Card([10, 9.8], noise=0.03, seed=1)
    result = final(card, "default", "candidate")
    judged = ratio_of(result.rounds, 1, 0, "layer", SETTINGS)
    assert 1 - judged.value > SETTINGS.min_gain > 1 - judged.high
    assert (result.winner, result.gain) == (0, 0.0)


def test_noise_alone_never_makes_a_winner() -> None:
    """Eight equal candidates, whose luckiest the selection takes: the judgement sees other rounds."""
    labels = ["default", *["candidate"] * 8]
    winners = [final(Card([10] * 9, noise=0.02, seed=seed), *labels).winner for seed in range(40)]
    assert winners == [0] * 40


def test_the_reported_gain_is_not_that_of_the_rounds_that_chose() -> None:
    """With much noise the chosen one's selection rounds are lucky by about a percent; its gain is not."""
    settings = replace(SETTINGS, min_gain=0.0, select_rounds=4)
    gains = []
    for seed in range(60):
        card = Card([10] * 9, noise=0.02, seed=seed)
        result = final(card, "default", *["candidate"] * 8, settings=settings)
        judged = result.rounds[settings.select_rounds :]
        (chosen,) = (index for index in range(1, 9) if judged[0].us[index])
        gains.append(1 - ratio_of(judged, chosen, 0, "layer", settings).value)
    assert abs(float(np.mean(gains))) < 0.003


def test_drift_does_not_decide() -> None:
    """Half a percent slower with every run: whoever always ran first would look 0.5 % faster."""
    result = final(Card([10, 10], noise=0, drift=0.005), "default", "candidate")
    assert ratio_of(result.rounds, 1, 0, "layer", SETTINGS).value == pytest.approx(1, abs=1e-4)


def test_rounds_alternate_and_each_pair_has_its_own_fresh_routings() -> None:
    card = Card([10, 9, 9.5])
    final(card, "default", "candidate", "candidate")
    select = SETTINGS.select_rounds * 3
    order = [index for index, _ in card.asked[:select]]
    assert order == [0, 1, 2, 2, 1, 0] * (SETTINGS.select_rounds // 2)
    seeds = [seed for _, seed in card.asked]
    assert set(seeds[:select]) == {SELECT_SEED + i for i in range(SETTINGS.select_rounds // 2)}
    assert set(seeds[select:]) == {JUDGE_SEED + i for i in range(SETTINGS.judge_rounds // 2)}


def test_the_published_config_runs_in_every_round() -> None:
    result = final(Card([10, 9.5, 8]), "default", "published", "candidate")
    assert result.winner == 2
    assert all(r.us[1] for r in result.rounds)
    gain = ratio_of(result.rounds[SETTINGS.select_rounds :], 1, 0, "layer", SETTINGS)
    assert gain.value == pytest.approx(0.95, abs=0.005)


def test_the_published_config_can_win() -> None:
    assert final(Card([10, 8, 9]), "default", "published", "candidate").winner == 1


def test_losers_of_the_selection_do_not_run_again() -> None:
    result = final(Card([10, 9, 9.5]), "default", "candidate", "candidate")
    assert all(not r.us[2] for r in result.rounds[SETTINGS.select_rounds :])


def test_who_fails_the_gate_is_never_timed() -> None:
    card = Card([10, 5, 9])
    result = confirm(
        PROBLEM,
        finalists("default", "candidate", "candidate"),
        lambda index: Failure(Status.INCORRECT, "one wrong tile") if index == 1 else 1e-3,
        card,
        SETTINGS,
    )
    assert result.winner == 2
    assert result.errors == (1e-3, None, 1e-3)
    assert 1 not in {index for index, _ in card.asked}
    assert result.notes == ("candidate 1 was not timed: incorrect: one wrong tile",)


def test_who_dies_in_a_round_is_out() -> None:
    card = Card([10, 5, 9])
    card.dies = {1: 5}
    result = final(card, "default", "candidate", "candidate")
    assert result.winner == 2
    assert result.errors[1] is None
    assert result.notes == ("candidate 1 failed in a round: runtime_error: died",)


def test_when_the_chosen_one_dies_in_the_judgement_the_default_is_kept() -> None:
    card = Card([10, 5, 9])
    card.dies = {1: SETTINGS.select_rounds * 3 + 3}
    result = final(card, "default", "candidate", "candidate")
    assert result.winner == 0
    assert result.errors[1] is None


@pytest.mark.parametrize("at", ["gate", "selection", "judgement"])
def test_without_a_default_there_is_no_winner(at: str) -> None:
    card = Card([10, 5, 9])
    card.dies = {"gate": {}, "selection": {0: 4}, "judgement": {0: SETTINGS.select_rounds * 3 + 3}}[at]
    result = confirm(
        PROBLEM,
        finalists("default", "candidate", "candidate"),
        lambda index: DIED if at == "gate" and index == 0 else 1e-3,
        card,
        SETTINGS,
    )
    assert (result.winner, result.gain) == (0, 0.0)
    assert result.errors[0] is None
    said = "the default itself failed, so nothing can be compared with it: kept default"
    assert (said in result.notes) is (at == "gate")


def test_the_default_is_no_challenger_of_itself() -> None:
    same = Finalist("candidate", finalists("default")[0].config)
    card = Card([10, 10])
    result = confirm(PROBLEM, [*finalists("default"), same], lambda index: 1e-3, card, SETTINGS)
    assert result.winner == 0
    assert not card.asked
    assert result.notes == ("no challenger is left: kept default",)


def test_the_first_finalist_must_be_the_default() -> None:
    for labels in ((), ("candidate",)):
        with pytest.raises(ValueError, match=r"^the default is the first finalist$"):
            final(Card([10]), *labels)


@pytest.mark.parametrize(
    ("b_us", "says"),
    [(10.0, Verdict.SAME), (10.3, Verdict.SLOWER), (9.7, Verdict.FASTER)],
)
def test_a_comparison_is_right_20_times_of_20(b_us: float, says: Verdict) -> None:
    for seed in range(20):
        result = compare(Card([10, b_us], seed=seed), "layer", SETTINGS)
        assert isinstance(result, Comparison)
        assert result.verdict is says
        assert result.ratio.value == pytest.approx(b_us / 10, abs=0.005)


def test_a_comparison_with_one_that_dies_is_its_failure() -> None:
    card = Card([10, 10])
    card.dies = {1: 3}
    assert compare(card, "layer", SETTINGS) == DIED


def test_the_interval_of_one_contender_spans_its_routings() -> None:
    rounds, failed = run_rounds(Card([10], noise=0), (0,), 1, 32, seed=0)
    assert not failed
    interval = interval_of(rounds, 0, "layer", SETTINGS)
    assert interval.low < 10 < interval.high
    assert interval.high - interval.low > 0.05  # routings differ by 2 %, whatever the timer's noise


def exactly(*us: float) -> RunRound:
    """Times without noise."""
    return lambda index, seed: {"layer": us[index]}


def test_the_least_gain_itself_is_no_winner() -> None:
    settings = replace(SETTINGS, min_gain=0.25)
    for us, winner in ((7.5, 0), (7.4, 1)):
        result = confirm(
            PROBLEM, finalists("default", "candidate"), lambda i: 1e-3, exactly(10, us), settings
        )
        assert result.winner == winner
    kept = confirm(PROBLEM, finalists("default", "candidate"), lambda i: 1e-3, exactly(10, 7.5), settings)
    assert kept.notes == (
        "kept default: candidate 1's gain of 25.0% (95% CI 25.0% to 25.0%) is not surely above 25.0%",
    )


def test_one_config_under_two_labels_runs_once() -> None:
    twice = finalists("default", "published", "candidate")
    twice[2] = Finalist("candidate", twice[1].config)
    result = confirm(PROBLEM, twice, lambda i: 1e-3, exactly(10, 9, 8), SETTINGS)
    assert result.winner == 1
    assert len(result.rounds) == SETTINGS.judge_rounds, "one challenger needs no selection"
    assert all(not r.us[2] for r in result.rounds)


def test_the_challenger_is_the_fastest_by_the_median_of_its_rounds() -> None:
    """One lucky round does not choose."""
    calls = iter(range(1000))

    def select(index: int, seed: int) -> dict[str, float]:
        lucky = index == 1 and next(calls) == 0
        return {"layer": 1.0 if lucky else (10, 9.5, 9)[index]}

    labels = ("default", "candidate", "candidate")
    run = exactly(10, 9.5, 9)
    result = confirm(PROBLEM, finalists(*labels), lambda i: 1e-3, run, SETTINGS, select)
    assert result.winner == 2
    assert result.rounds[0].us[1] == {"layer": 1.0}, "the rounds that select have a runner of their own"


def test_a_published_config_that_dies_in_the_judgement_costs_the_challenger_nothing() -> None:
    card = Card([10, 9.5, 8])
    card.dies = {1: SETTINGS.select_rounds * 3 + 2}
    result = final(card, "default", "published", "candidate")
    assert (result.winner, result.errors[1]) == (2, None)
    assert result.notes == ("published 1 failed in a round: runtime_error: died",)


def test_routings_follow_the_seed_of_the_settings() -> None:
    settings = replace(SETTINGS, seed=5)
    card = Card([10, 9, 8])
    final(card, "default", "candidate", "candidate", settings=settings)
    seeds = [seed for _, seed in card.asked]
    assert (seeds[0], seeds[-1]) == (SELECT_SEED + 5, JUDGE_SEED + 5 + settings.judge_rounds // 2 - 1)


def test_each_comparison_has_routings_of_its_own() -> None:
    asked = []
    for seed in (0, 1):
        card = Card([10, 10])
        compare(card, "layer", replace(SETTINGS, seed=7), seed)
        asked.append({routing for _, routing in card.asked})
    first = 7 + COMPARE_SEED
    assert asked[0] == set(range(first, first + SETTINGS.judge_rounds // 2))
    assert asked[1] == {routing + SETTINGS.judge_rounds for routing in asked[0]}
    card = Card([10, 10])
    compare(card, "layer", SETTINGS)
    assert card.asked[0] == (0, COMPARE_SEED), "the first, unless another is asked for"


def test_a_comparison_names_a_b_and_their_ratio() -> None:
    result = compare(exactly(10, 5), "layer", SETTINGS)
    assert isinstance(result, Comparison)
    assert (result.a.value, result.b.value, result.ratio.value) == (10, 5, 0.5)
    assert len(result.rounds) == SETTINGS.judge_rounds


def test_a_pair_counts_only_where_both_ran_in_both_of_its_rounds() -> None:
    whole, half = {"layer": 10.0}, {"layer": 99.0}
    rounds = [Round((whole, {"layer": 5.0}))] * 2 + [Round((half, {})), Round((half, {"layer": 1.0}))]
    assert ratio_of(rounds, 1, 0, "layer", SETTINGS).value == 0.5
    assert interval_of(rounds, 1, "layer", SETTINGS).value == 5.0
    assert interval_of(rounds[2:] + [Round(({"layer": 1.0}, {}))] * 2, 0, "layer", SETTINGS).high == 99.0
    with pytest.raises(ValueError, match="at least one"):
        ratio_of(rounds[2:], 1, 0, "layer", SETTINGS)


def test_the_time_of_a_pair_is_the_mean_of_its_rounds() -> None:
    rounds = [Round(({"layer": 10.0},)), Round(({"layer": 13.0},))]
    assert interval_of(rounds, 0, "layer", SETTINGS) == Interval(11.5, 11.5, 11.5)


def test_who_failed_in_one_round_runs_in_no_other() -> None:
    card = Card([10, 9, 8])
    card.dies = {1: 2}
    rounds, failed = run_rounds(card, (0, 1), 3, 4, seed=3)
    assert failed == {1: DIED}
    assert [index for index, _ in card.asked] == [0, 1, 0, 0, 0]
    assert [seed for _, seed in card.asked] == [3, 3, 3, 4, 4]
    assert all(r.us[1:] == ({}, {}) for r in rounds)
