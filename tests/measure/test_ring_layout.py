"""How a ring is laid over slots and copies, on steps that can be worked out by hand."""

from typing import Any

import numpy as np
import pytest

from autotune.errors import UserError
from autotune.measure import ring
from autotune.measure.ring import hot, least_reuse, plan_ring


def ids(*steps: list[int]) -> Any:
    return np.array(steps, np.int32)[:, None, :]


def test_a_ring_is_refused_in_words_after_thousands_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(steps: int) -> Any:
        drawn.append(steps)
        return np.zeros((steps, 1, 1), np.int32)

    def plan(min_steps: int, distance: int = 1 << 40) -> Any:
        drawn.clear()
        return plan_ring(draw, experts=4, expert_bytes=10, distance=distance, min_steps=min_steps, seed=0)

    monkeypatch.setattr(ring, "MAX_STEPS", 30)
    with pytest.raises(UserError) as told:
        plan(8)
    assert str(told.value) == (
        "30 steps of this shape touch too few weights to keep them cold: lower --cold, or use --cold 0 for"
        " hot times"
    )
    assert drawn == [8, 12, 18, 27]  # half as many again each time
    with pytest.raises(UserError):
        plan(30)
    assert drawn == [30]
    made = plan(5, distance=30)
    assert drawn == [5]
    assert (made.period, made.reuse_bytes) == (5, 40)  # 30 must be exceeded
    assert ring.MAX_STEPS == 30


def test_a_period_divides_the_steps_and_holds_around_the_end() -> None:
    # Bytes a step: between two uses of a region lie the others' steps, of which the smallest count.
    assert ring._least_period(np.array([5, 1, 5, 1]), 4) == 4
    assert ring._least_period(np.array([5, 5, 5, 5]), 4) == 2
    assert ring._least_period(np.array([5, 5, 5, 5]), 5) == 4
    assert ring._least_period(np.array([5, 5, 5]), 4) == 3
    assert ring._least_period(np.array([1, 9, 9, 9, 9, 9]), 5) == 3
    assert ring._least_period(np.array([5, 5]), 5) is None


def test_a_step_stays_within_one_copy_and_regions_are_as_large_as_their_largest_step() -> None:
    drawn = ids([0, 1, 2], [3, 4, 4], [5, 6, 6], [7, 8, 9])
    made = plan_ring(lambda steps: drawn, experts=5, expert_bytes=1, distance=1, min_steps=4, seed=3)
    assert (made.period, made.count) == (2, 2)  # regions of 3 and 3: the second has no room beside the first
    assert made.copies.tolist() == [0, 1, 0, 1]
    assert made.copies.dtype == np.int32
    again = plan_ring(lambda steps: drawn, experts=6, expert_bytes=1, distance=1, min_steps=4, seed=3)
    assert again.count == 1  # exactly full
    slots = [set(step.flat) for step in again.ids]
    assert slots[0] >= slots[2]
    assert slots[3] >= slots[1]
    assert not slots[0] & slots[3]
    other = plan_ring(lambda steps: drawn, experts=6, expert_bytes=1, distance=1, min_steps=4, seed=4)
    assert (other.ids != again.ids).any()
    assert (drawn == ids([0, 1, 2], [3, 4, 4], [5, 6, 6], [7, 8, 9])).all()  # what was drawn stays


def test_experts_of_other_gpus_have_no_slot_and_touch_nothing() -> None:
    drawn = ids([0, -1], [-2, 1], [2, -1], [-1, 3])
    made = plan_ring(lambda steps: drawn, experts=4, expert_bytes=10, distance=9, min_steps=4, seed=0)
    assert ((made.ids < 0) == (drawn < 0)).all()
    assert (made.ids[drawn < 0] == drawn[drawn < 0]).all()
    assert (made.period, made.reuse_bytes) == (2, 10)


def test_the_least_reuse_is_of_whole_steps_between_and_goes_around() -> None:
    zero = np.zeros(3, np.int32)
    assert least_reuse(ids([0], [1], [2]), zero, 10) == 20
    assert least_reuse(ids([0], [1], [0]), zero, 10) == 0  # the last and the first of the next replay
    assert least_reuse(ids([0, 5], [1, 1], [2, 3]), zero, 10) == 30
    assert least_reuse(ids([0], [0], [0]), np.array([0, 1, 2], np.int32), 10) == 20  # unlike copies
    assert least_reuse(ids([-1], [-1], [-2]), zero, 10) is None


def test_hot_steps_are_all_the_first_on_copy_0() -> None:
    made = hot(ids([3, 1], [2, 0]), 3)
    assert made.ids.tolist() == [[[3, 1]]] * 3
    assert made.copies.tolist() == [0, 0, 0]
    assert (made.count, made.period, made.reuse_bytes) == (1, 1, 0)
    made.ids[0] = 9
    assert made.ids[1].tolist() == [[3, 1]]  # a copy of its own
