"""What a user may choose about measuring, and what it is allowed to decide."""

import pytest

from autotune.measure.settings import MeasureSettings


@pytest.mark.parametrize(
    ("cold", "decides"), [(0.0, False), (0.5, False), (0.99, False), (1.0, True), (2.0, True)]
)
def test_weights_that_are_partly_in_the_cache_decide_nothing(cold: float, decides: bool) -> None:
    """Less than one cache's worth between two uses leaves some of them there; serving finds none."""
    assert MeasureSettings(cold=cold).decides is decides


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cold": -0.1}, "cold >= 0"),
        ({"steps": 0}, "steps >= 1"),
        ({"min_samples": 1}, "min_samples >= 2"),
        ({"poor": 1.0}, "poor is above 1"),
        ({"select_rounds": 3}, "even numbers from 2"),
        ({"judge_rounds": 0}, "even numbers from 2"),
    ],
)
def test_what_cannot_be_measured_by_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeasureSettings(**changes)  # type: ignore[arg-type]
