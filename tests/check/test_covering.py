"""A covering array holds every legal pair of values, and nothing illegal."""

from itertools import combinations

from bench.covering import pairwise

from autotune.space.read import parse_space
from autotune.space.space import BoundSpace
from tests.spaces import KIMI, MI325X, TEXT

RULE = """
[[rules]]
name = "few-parts"
require = "split_k * tile_n <= 192"
reason = "for the test"
"""


def test_every_legal_pair_is_held() -> None:
    space: BoundSpace = parse_space(TEXT + RULE).at(KIMI, 4, MI325X)
    chosen = pairwise(space)
    assert chosen[0] == space.default
    assert all(space.is_legal(config) for config in chosen)
    names = [param.name for param in space.params]

    def pairs(configs) -> set[tuple[str, ...]]:
        return {
            (a, b, repr(config[a]), repr(config[b])) for config in configs for a, b in combinations(names, 2)
        }

    everything = list(space)
    assert pairs(chosen) == pairs(everything)
    assert len(chosen) < len(everything) / 2


def test_equal_seeds_give_equal_arrays() -> None:
    space = parse_space(TEXT).at(KIMI, 4, MI325X)
    assert pairwise(space, 3) == pairwise(space, 3)
