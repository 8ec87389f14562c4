"""What a user may choose about measuring, and what it is allowed to decide."""

import re

import pytest

from autotune.measure.settings import MeasureSettings

LEAST = "cold >= 0, steps >= 1 and min_samples >= 2 are required"
ROUNDS = "rounds come in pairs of opposite order: give even numbers from 2"


@pytest.mark.parametrize(
    ("cold", "decides"), [(0.0, False), (0.5, False), (0.99, False), (1.0, True), (2.0, True)]
)
def test_weights_that_are_partly_in_the_cache_decide_nothing(cold: float, decides: bool) -> None:
    """Less than one cache's worth between two uses leaves some of them there; serving finds none."""
    assert MeasureSettings(cold=cold).decides is decides


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cold": -0.1}, LEAST),
        ({"steps": 0}, LEAST),
        ({"min_samples": 1}, LEAST),
        ({"poor": 1.0}, "poor is above 1: a candidate near the fastest needs a window of its own"),
        ({"select_rounds": 3}, ROUNDS),
        ({"select_rounds": 0}, ROUNDS),
        ({"judge_rounds": 3}, ROUNDS),
        ({"judge_rounds": 0}, ROUNDS),
    ],
)
def test_what_cannot_be_measured_by_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        MeasureSettings(**changes)  # type: ignore[arg-type]


def test_the_least_that_can_be_measured_by_is_taken() -> None:
    MeasureSettings(cold=0, steps=1, min_samples=2, poor=1.001, select_rounds=2, judge_rounds=2)


def test_the_usual_conditions_do_not_change_unnoticed() -> None:
    """Who changes one changes what every run measures, costs and asks of a winner, and the docs with it."""
    assert MeasureSettings() == MeasureSettings(
        seed=0,
        cold=2.0,
        steps=32,
        layer_steps=16,
        target_rse=0.005,
        min_samples=10,
        min_sample_us=300.0,
        window_s=0.15,
        warmup_s=0.3,
        poor=1.2,
        poor_layer=1.1,
        timeout_s=60.0,
        prepare_timeout_s=300.0,
        min_gain=0.01,
        select_rounds=8,
        judge_rounds=32,
        resamples=10_000,
        shared_gpu=False,
        patience_s=60.0,
    )


def test_the_conditions_of_a_time_are_told_in_one_text() -> None:
    assert MeasureSettings().key == "v1;cold>2xLLC;steps>=32;seed=0"
    assert MeasureSettings().layer_key == "v1;cold>2xLLC;steps>=16;seed=0"
    assert MeasureSettings(cold=0, steps=4, seed=7).key == "v1;hot;steps>=4;seed=7"
    assert MeasureSettings(cold=1.5, shared_gpu=True).key == "v1;cold>1.5xLLC;steps>=32;seed=0;shared"
