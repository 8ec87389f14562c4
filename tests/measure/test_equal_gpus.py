"""Whether equal GPUs agree, and the small parts that hold weights and lay rings."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autotune.errors import UserError
from autotune.measure import copies, ring
from autotune.measure.calibration import Calibration, calibration_of
from autotune.measure.copies import HoldsCopies
from autotune.measure.corners import case_routings
from autotune.measure.ring import hot, least_reuse, plan_ring
from autotune.problem.layer import Layer, Stage
from autotune.problem.routing import Routing
from autotune.protocol.runtime import LogicalWeights
from autotune.results import Gpu
from autotune.space.config import Config
from tests.measure.conftest import PROBLEM, TINY

ONE, TWO = Gpu("host", "GPU-1"), Gpu("host", "GPU-2")


def windows(*taken: tuple[int, Gpu, float]) -> list[Any]:
    """Windows of configs by number."""
    return [
        SimpleNamespace(problem=PROBLEM, stage=Stage.STAGE1, config=Config({"n": n}), gpu=gpu, us=us)
        for n, gpu, us in taken
    ]


def test_a_gpus_factor_is_the_geometric_mean_of_its_medians_against_all() -> None:
    made = calibration_of(
        windows(
            *[(0, ONE, us) for us in (10.0, 10.0, 99.0)],
            *[(0, TWO, us) for us in (40.0, 1.0, 40.0)],
            *[(1, ONE, 20.0), (1, TWO, 20.0)],
            (2, ONE, 5.0),  # not on every GPU
        )
    )
    assert made is not None
    assert made.configs == 2
    assert list(made.factors) == [ONE, TWO]
    assert made.factors[ONE] == pytest.approx(0.5**0.5)
    assert made.factors[TWO] == pytest.approx(2**0.5)
    assert made.spread == pytest.approx(1.0)


def test_without_a_config_on_two_gpus_nothing_is_known() -> None:
    assert calibration_of([]) is None
    assert calibration_of(windows((0, ONE, 1.0), (1, ONE, 1.0))) is None
    assert calibration_of(windows((0, ONE, 1.0), (1, TWO, 1.0))) is None


@pytest.mark.parametrize(
    ("slower", "configs", "agree", "text"),
    [
        (1.005, 1, True, "2 GPUs agree within 0.50% (1 config, 3 windows each): they share every problem"),
        (1.0, 3, True, "2 GPUs agree within 0.00% (3 configs, 3 windows each): they share every problem"),
        (
            1.006, 3, False,
            f"2 GPUs differ by 0.60% (3 configs, 3 windows each), {TWO} is the slowest: each problem is"
            " measured on one of them",
        ),
    ],
)  # fmt: skip
def test_gpus_agree_within_half_a_percent(slower: float, configs: int, agree: bool, text: str) -> None:
    made = Calibration({ONE: 1.0, TWO: slower - 1e-12}, configs)
    assert (made.agree, made.text) == (agree, text)


# Copies.


class Weights:
    clones = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def clone(self) -> "Weights":
        Weights.clones += 1
        return Weights(100 * Weights.clones)

    def digest(self) -> int:
        return self.number


class Holder(HoldsCopies[Weights]):
    name = "triton"
    packed = 0

    def pack(self, weights: LogicalWeights) -> Weights:
        assert self.copies == []  # an earlier layer's are gone
        self.packed += 1
        return Weights(self.packed)


def test_copy_0_is_packed_and_the_others_are_cloned_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Weights, "clones", 0)
    holder = Holder()
    with pytest.raises(AssertionError, match=r"^prepare\(\) comes first$"):
        _ = holder.on
    holder.prepare(TINY, None)  # type: ignore[arg-type]
    assert (holder.on, holder.digest()) == (TINY, 1)
    holder.grow(3)
    holder.grow(2)
    assert [copy.number for copy in holder.copies] == [1, 100, 200]
    assert holder.digest() == 1
    holder.prepare(replace(TINY, experts=4), None)  # type: ignore[arg-type]
    assert [copy.number for copy in holder.copies] == [2]
    asked: list[str] = []
    weighing = SimpleNamespace(copy=lambda layer: 1000 * layer.experts)
    monkeypatch.setattr(copies, "weight_bytes", lambda name: asked.append(name) or weighing)
    assert holder.packed_bytes(TINY) == 8000
    assert asked == ["triton"]


# Rings.


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


# The routings of the gate.


def cases(experts: int, top_k: int, tokens: int, *, ep: int = 1, **more: Any) -> dict[str, list[list[int]]]:
    layer = Layer("any", 64, 32, experts, top_k, max(1, ep), ep=ep)
    options = {"routing": None, "sequences": 1, "seed": 5, "thorough": True, **more}
    made = case_routings(layer, tokens, **options)
    assert all(ids.dtype == np.int32 for ids in made.values())
    return {name: ids.tolist() for name, ids in made.items()}


def test_the_usual_cases_and_the_rarer_ones_by_name() -> None:
    usual = ["uniform routing", "all on the same experts"]
    assert list(cases(8, 2, 3, thorough=False)) == usual
    rarer = ["other uniform routing", "first and last experts", "spread out", "an expert without a token"]
    assert list(cases(8, 2, 3)) == [*usual, *rarer]
    assert list(cases(8, 2, 3, routing=Routing("zipf", 1.0))) == [*usual, *rarer, "zipf routing"]
    assert list(cases(8, 8, 3)) == [*usual, *rarer[:-1]]  # every expert has a token
    assert list(cases(4, 2, 3, ep=2, thorough=False)) == [*usual, "no expert of this GPU"]


def test_the_corners_are_where_they_are_said_to_be() -> None:
    made = cases(8, 3, 2)
    assert made["first and last experts"] == [[0, 1, 7]] * 2
    assert cases(8, 2, 2)["first and last experts"] == [[0, 7]] * 2
    assert made["spread out"] == [[0, 1, 2], [3, 4, 5]]
    assert cases(4, 3, 2)["spread out"] == [[0, 1, 2], [3, 0, 1]]
    same = made["all on the same experts"]
    assert same[0] == same[1]
    assert len(set(same[0])) == 3
    assert made["uniform routing"] != made["other uniform routing"]
    assert len({n for row in cases(4, 3, 200)["an expert without a token"] for n in row}) == 3


def test_on_one_of_several_gpus_others_experts_are_negative() -> None:
    made = cases(2, 4, 2, ep=4)  # this GPU has fewer experts than a token visits
    assert all(n < 0 for row in made["no expert of this GPU"] for n in row)
    assert {n for n in made["all on the same experts"][0] if n >= 0} == {0, 1}
    assert {n for n in made["first and last experts"][0] if n >= 0} == {0, 1}
    assert {n for row in made["spread out"] for n in row if n >= 0} == {0, 1}


def test_a_problems_own_routing_has_its_draft_tokens_and_seeds_differ() -> None:
    correlated = Routing("correlated", 1.0)  # every draft token goes where its sequence's first goes
    drawn = [set(row) for row in cases(64, 2, 6, routing=correlated, sequences=2)["correlated routing"]]
    assert drawn[0] == drawn[1] == drawn[2]
    assert drawn[3] == drawn[4] == drawn[5] != drawn[0]
    for name, ids_ in cases(64, 2, 6, routing=correlated, sequences=2).items():
        again = cases(64, 2, 6, routing=correlated, sequences=2)[name]
        other = cases(64, 2, 6, routing=correlated, sequences=2, seed=6)[name]
        assert again == ids_
        assert (other == ids_) == (name in ("first and last experts", "spread out"))
