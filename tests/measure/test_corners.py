"""The routings of the gate, case by case."""

from typing import Any

import numpy as np

from autotune.measure.corners import case_routings
from autotune.problem.layer import Layer
from autotune.problem.routing import Routing


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
    assert all(len(set(row)) == 4 for ids in made.values() for row in ids)  # unlike ones unlike numbers
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
