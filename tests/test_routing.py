"""Routing models: legal ids, the stated sharing, and recordings."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.routing import Routing

DRAW = {"sequences": 2, "draft_tokens": 4, "experts": 384, "top_k": 8}

models = st.one_of(
    st.just(Routing()),
    st.floats(0.1, 3).map(lambda s: Routing("zipf", s)),
    st.floats(0, 1).map(lambda p: Routing("correlated", p)),
)


@given(models, st.integers(0, 2**31), st.integers(1, 12), st.integers(12, 64))
def test_a_tokens_experts_are_distinct_and_exist(
    routing: Routing, seed: int, top_k: int, experts: int
) -> None:
    ids = routing.draw(steps=3, sequences=2, draft_tokens=3, experts=experts, top_k=top_k, seed=seed)
    assert ids.shape == (3, 6, top_k)
    assert ids.dtype == np.int32
    assert ids.min() >= 0
    assert ids.max() < experts
    assert all(len(set(token)) == top_k for step in ids for token in step)


@given(models, st.integers(0, 1000))
def test_equal_seeds_give_equal_steps_and_other_seeds_others(routing: Routing, seed: int) -> None:
    first = routing.draw(steps=4, seed=seed, **DRAW)
    assert np.array_equal(first, routing.draw(steps=4, seed=seed, **DRAW))
    assert not np.array_equal(first, routing.draw(steps=4, seed=seed + 1, **DRAW))


def _shared(routing: Routing) -> float:
    ids = routing.draw(steps=400, seed=1, **DRAW).reshape(400, 2, 4, 8)
    pairs = [len(set(a) & set(b)) / 8 for step in ids for s in step for a, b in pairwise(s)]
    return float(np.mean(pairs))


def test_successive_draft_tokens_share_the_stated_part_of_their_experts() -> None:
    assert _shared(Routing("correlated", 0.7)) == pytest.approx(0.7, abs=0.02)
    assert _shared(Routing("correlated", 0.0)) == 0.0
    assert _shared(Routing("correlated", 1.0)) == 1.0
    assert _shared(Routing()) == pytest.approx(8 / 384, abs=0.01)


def test_sequences_are_independent_of_each_other() -> None:
    ids = Routing("correlated", 1.0).draw(steps=200, seed=1, **DRAW).reshape(200, 2, 4, 8)
    overlap = np.mean([len(set(a[0]) & set(b[0])) / 8 for a, b in ids])
    assert overlap == pytest.approx(8 / 384, abs=0.02)


def test_zipf_touches_fewer_experts_than_uniform() -> None:
    def touched(routing: Routing) -> float:
        return float(np.mean([len(np.unique(s)) for s in routing.draw(steps=50, seed=3, **DRAW)]))

    assert touched(Routing("zipf", 1.2)) < touched(Routing())


@pytest.mark.parametrize("text", ["uniform", "zipf:1.2", "correlated:0.5"])
def test_the_key_reads_back(text: str) -> None:
    assert Routing.parse(text).key == text
    assert Routing.parse(Routing.parse(text).key) == Routing.parse(text)


@pytest.mark.parametrize("text", ["", "zipf", "zipf:0", "zipf:x", "correlated:1.1", "correlated:nan", "even"])
def test_no_routing_model(text: str) -> None:
    with pytest.raises(UserError, match="use uniform"):
        Routing.parse(text)


@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
def test_a_recording_is_replayed_in_an_order_that_the_seed_chooses(tmp_path: Path, suffix: str) -> None:
    recorded = Routing().draw(steps=10, seed=5, **DRAW)
    path = tmp_path / f"steps{suffix}"
    if suffix == ".npy":
        np.save(path, recorded)
    else:
        path.write_text("\n".join(json.dumps(step.tolist()) for step in recorded))
    routing = Routing.parse(f"file:{path}")
    drawn = routing.draw(steps=20, seed=0, **DRAW)
    known = {step.tobytes() for step in recorded}
    assert {step.tobytes() for step in drawn[:10]} == known  # every step once, before one comes again
    assert np.array_equal(drawn[:10], drawn[10:])
    few = [routing.draw(steps=4, seed=seed, **DRAW) for seed in (0, 1)]
    assert not np.array_equal(*few)
    assert Routing.parse(routing.key) == routing


def test_a_recording_made_anew_is_another_routing(tmp_path: Path) -> None:
    path = tmp_path / "steps.npy"
    np.save(path, Routing().draw(steps=4, seed=1, **DRAW))
    before = Routing.parse(f"file:{path}")
    np.save(path, Routing().draw(steps=4, seed=2, **DRAW))
    assert Routing.parse(f"file:{path}").key != before.key


@pytest.mark.parametrize(
    "broken",
    [
        lambda ids: ids[:, :3],
        lambda ids: ids + 384,
        lambda ids: ids * 0,
        lambda ids: ids[:0],
        lambda ids: ids.astype(float),
    ],
)
def test_a_recording_of_another_layer_is_refused(tmp_path: Path, broken: object) -> None:
    path = tmp_path / "steps.npy"
    np.save(path, broken(Routing().draw(steps=4, seed=5, **DRAW)))  # type: ignore[operator]
    with pytest.raises(UserError, match="record it"):
        Routing.parse(f"file:{path}").draw(steps=2, seed=0, **DRAW)


def test_a_missing_recording_is_named() -> None:
    with pytest.raises(UserError, match="there is no file"):
        Routing.parse("file:/nowhere/steps.npy")
