"""Routing models: legal ids, the stated sharing, and recordings."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.problem.layer import Layer, problems
from autotune.problem.routing import Routing

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


def test_uniform_steps_are_those_that_stored_times_were_taken_on() -> None:
    noise = np.random.default_rng(7).gumbel(size=(3, 8, 384))
    drawn = Routing().draw(steps=3, seed=7, **DRAW)
    assert np.array_equal(np.sort(drawn), np.sort(np.argsort(-noise)[..., :8]))


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


@pytest.mark.parametrize("text", ["uniform", "zipf:1.2", "correlated:0.5", "correlated:0.1234567"])
def test_the_key_reads_back(text: str) -> None:
    assert Routing.parse(text).key == text
    assert Routing.parse(Routing.parse(text).key) == Routing.parse(text)


def test_minus_zero_is_zero() -> None:
    assert Routing.parse("correlated:-0.0").key == "correlated:0"


@pytest.mark.parametrize(
    "text", ["", "zipf", "zipf:0", "zipf:x", "correlated:1.1", "correlated:nan", "even", "zipf:1_0"]
)
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


LAYER = Layer("any", 64, 32, experts=384, top_k=8, tp=1)


def recorded(steps: int = 4) -> "np.ndarray[Any, Any]":
    return Routing().draw(steps=steps, seed=5, **DRAW).astype(np.int64)


def changed(place: tuple[int, int, int], value: int) -> "np.ndarray[Any, Any]":
    ids = recorded()
    ids[place] = value
    return ids


def pickled() -> "np.ndarray[Any, Any]":
    return np.array([[[{}]]], dtype=object)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (
            lambda: recorded()[:, :3],
            "has 3 tokens per step and 8 experts per token, and this shape needs 8 and 8",
        ),
        (lambda: recorded()[:, :, :6], "6 experts per token"),
        (lambda: changed((2, 3, 1), 384), "expert 384 at step 2, token 3, and the layer's are 0 to 383"),
        (lambda: changed((0, 7, 0), -1), "expert -1 at step 0, token 7"),
        (lambda: recorded() * 0, r"step 0, token 0 to \[0, 0, 0, 0, 0, 0, 0, 0\], an expert twice"),
        (lambda: recorded()[:0], r"holds int64 \[0, 8, 8\]"),
        (lambda: recorded()[0], r"holds int64 \[8, 8\]"),
        (lambda: recorded().astype(float), "holds float64"),
        (lambda: recorded() > 5, "holds bool"),
        (lambda: np.full((4, 8, 8), np.nan), "holds float64"),
        (pickled, "not a routing recording .*allow_pickle"),
    ],
)
def test_a_recording_that_is_not_of_the_layer_is_refused_before_anything_runs(
    ids: Callable[[], Any], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "steps.npy"
    np.save(path, ids(), allow_pickle=True)
    with pytest.raises(UserError, match=reason) as told:
        problems(LAYER, [4], [2], Routing.parse(f"file:{path}"))
    assert str(path) in str(told.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[[0, 1], [2, 3.0]]", "line 2, token 1: 3.0 is not an expert's number"),
        ("[[0, 1], [2, true]]", "line 2, token 1: true is no"),
        ("[[0, 1], [2, NaN]]", "line 2, token 1: NaN is no"),
        ('[[0, 1], [2, "3"]]', 'line 2, token 1: "3" is no'),
        ("[[0, 1], [2, 99999999999999999999]]", "line 2, token 1: 99999999999999999999 is no"),
        ("[[0, 1], [2]]", "line 2, token 1: no list of as many"),
        ("[[0, 1]]", "line 2: 1 tokens, and line 1 has 2"),
        ("[[0, 1, 2], [3, 4, 5]]", "line 2: 3 experts per token, and line 1 has 2"),
        ("[0, 1]", "line 2, token 0: no list"),
        ("{}", "line 2, token 0: no list"),
        ("[[0, 1], [2,", "line 2: Expecting"),
        ("[[0, 1], [2, 7]]", "expert 7 at step 1, token 1, and the layer's are 0 to 3"),
        ("[[0, 1], [2, 2]]", r"step 1, token 1 to \[2, 2\], an expert twice"),
    ],
)
def test_a_wrong_line_is_told_with_its_place(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(f"[[0, 1], [2, 3]]\n{line}\n")
    small = Layer("any", 64, 32, experts=4, top_k=2, tp=1)
    with pytest.raises(UserError, match=reason):
        problems(small, [2], [1], Routing.parse(f"file:{path}"))


def test_a_header_that_is_no_header_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "steps.npy"
    np.save(path, np.zeros((1, 4, 8), np.int64))
    path.write_bytes(path.read_bytes().replace(b", }", b", ["))
    with pytest.raises(UserError, match="is not a routing recording"):
        Routing.parse(f"file:{path}").draw(steps=1, sequences=1, draft_tokens=4, experts=384, top_k=8, seed=0)


@given(st.sampled_from([".npy", ".jsonl"]), st.binary(max_size=200), st.booleans())
def test_whatever_bytes_a_recording_has_it_is_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes, header: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"steps{suffix}"
    path.write_bytes((b"\x93NUMPY\x01\x00" if header else b"") + content)
    with pytest.raises(UserError, match="steps"):
        problems(LAYER, [4], [2], Routing.parse(f"file:{path}"))


def test_a_recording_that_changes_under_a_run_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "steps#1.npy"  # a name with the sign that stands before the digest
    np.save(path, recorded())
    routing = Routing.parse(f"file:{path}")
    assert Routing.parse(routing.key) == routing
    np.save(path, recorded(5))
    with pytest.raises(UserError, match="has changed since it was named"):
        routing.draw(steps=2, seed=0, **DRAW)


def test_a_missing_recording_is_named() -> None:
    with pytest.raises(UserError, match="there is no file"):
        Routing.parse("file:/nowhere/steps.npy")
