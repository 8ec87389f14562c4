"""Weights are cold at every step: no slot comes back before more bytes than asked for were touched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.machine.devices import DEVICES
from autotune.measure.ring import hot, least_reuse, plan_ring
from autotune.measure.settings import MeasureSettings
from autotune.measure.workload import expert_bytes, plan
from autotune.problem.layer import Layer, Problem
from autotune.problem.routing import Routing
from tests.spaces import KIMI

ROUTINGS = st.one_of(
    st.just(Routing()),
    st.floats(0.1, 3).map(lambda s: Routing("zipf", round(s, 2))),
    st.floats(0, 1).map(lambda p: Routing("correlated", round(p, 2))),
)
LAYERS = st.builds(
    lambda experts, top_k, dim, ep: Layer(
        "any", 16 * dim, 8 * dim, experts, min(top_k, experts * ep), ep, ep=ep
    ),
    st.integers(2, 64),
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from([1, 1, 2, 4]),
)


@settings(max_examples=60, deadline=None)
@given(LAYERS, ROUTINGS, st.integers(1, 8), st.integers(1, 6), st.integers(1, 40), st.integers(0, 1000))
def test_any_routing_is_cold_on_any_layer_and_cache(
    layer: Layer, routing: Routing, draft: int, sequences: int, experts_in_cache: int, seed: int
) -> None:
    problem = Problem(layer, draft, sequences, routing)
    cache = experts_in_cache * expert_bytes(layer)
    ring = plan(problem, MeasureSettings(steps=4), cache, seed)
    least = least_reuse(ring.ids, ring.copies, expert_bytes(layer))
    assert least is not None
    assert least > 2 * cache
    assert ring.reuse_bytes == least


@settings(max_examples=60, deadline=None)
@given(LAYERS, ROUTINGS, st.integers(1, 8), st.integers(0, 1000))
def test_relabelling_is_a_bijection_within_one_copy_that_keeps_the_order(
    layer: Layer, routing: Routing, draft: int, seed: int
) -> None:
    problem = Problem(layer, draft, 1, routing)
    ring = plan(problem, MeasureSettings(steps=4), 5 * expert_bytes(layer), seed)
    drawn = problem.draw(len(ring.ids), seed)
    assert ((ring.ids >= 0) == (drawn >= 0)).all()
    assert ring.ids.max() < layer.experts
    assert ring.copies.max() + 1 == ring.count
    for all_before, all_after in zip(drawn, ring.ids, strict=True):
        before, after = all_before[all_before >= 0], all_after[all_before >= 0]
        pairs = sorted(set(zip(before.flat, after.flat, strict=True)))
        assert len(pairs) == len(np.unique(before)) == len(np.unique(after))
        assert [new for _, new in pairs] == sorted(new for _, new in pairs)


@pytest.mark.parametrize(("card", "copies"), [("h100", 1), ("mi325x", 2)])
def test_kimi_at_one_token_needs_few_copies(card: str, copies: int) -> None:
    cache = DEVICES[card].last_level_cache_bytes
    ring = plan(Problem(KIMI, 1), MeasureSettings(), cache, seed=0)
    assert ring.count == copies
    assert ring.reuse_bytes > 2 * cache


def test_random_routing_alone_is_not_cold() -> None:
    """Why there is a ring: the same steps as they were drawn meet experts that are still in the cache."""
    drawn = Routing().draw(steps=64, sequences=1, draft_tokens=4, experts=384, top_k=8, seed=0)
    least = least_reuse(drawn, np.zeros(64, np.int32), expert_bytes(KIMI))
    assert least is not None
    assert least < DEVICES["mi325x"].last_level_cache_bytes / 10


def test_equal_seeds_give_equal_passes_and_others_do_not() -> None:
    problem, cache = Problem(KIMI, 4), DEVICES["h100"].last_level_cache_bytes
    first, again, other = (plan(problem, MeasureSettings(), cache, seed) for seed in (1, 1, 2))
    assert (first.ids == again.ids).all()
    assert first.ids.shape != other.ids.shape or (first.ids != other.ids).any()


def test_the_smallest_period_that_is_cold_is_taken() -> None:
    ids = np.zeros((12, 1, 1), np.int32)  # one expert a step
    ring = plan_ring(
        lambda steps: np.zeros((steps, 1, 1), np.int32),
        experts=4,
        expert_bytes=10,
        distance=29,
        min_steps=len(ids),
        seed=0,
    )
    assert (ring.period, ring.count, ring.reuse_bytes) == (4, 1, 30)


def test_a_layer_that_is_too_small_to_be_cold_is_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match="--cold"):
        plan_ring(
            lambda steps: np.zeros((steps, 1, 1), np.int32),
            experts=2,
            expert_bytes=1,
            distance=1 << 30,
            min_steps=32,
            seed=0,
        )


def test_hot_repeats_the_first_routing() -> None:
    ids = np.arange(12, dtype=np.int32).reshape(3, 2, 2)
    ring = hot(ids, 5)
    assert ring.ids.shape == (5, 2, 2)
    assert (ring.ids == ids[0]).all()
    assert ring.reuse_bytes == 0
