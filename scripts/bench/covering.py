"""Few legal configs that between them hold every legal pair of values of every two knobs."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

from autotune.space.config import Config, Value
from autotune.space.space import BoundSpace

Pair = tuple[str, str, str, str]
"""Two knobs and their values' texts: True and 1 are two values."""

_DRAWS = 12  # configs that are drawn for a pair that is not covered yet; the one that covers most is taken


def pairwise(space: BoundSpace, seed: int = 0) -> list[Config]:
    """A covering array of strength two over a space with rules, greedily: not the smallest, but complete.

    The default is its first. A pair that no legal config holds is left out.
    """
    rng = random.Random(seed)
    open_pairs = {
        (one.name, other.name, repr(a), repr(b)): {one.name: a, other.name: b}
        for one, other in combinations(space.params, 2)
        for a in one.values
        for b in other.values
    }
    chosen: list[Config] = []

    def take(config: Config) -> None:
        chosen.append(config)
        for pair in _pairs(space, config):
            open_pairs.pop(pair, None)

    take(space.default)
    while open_pairs:
        pair = rng.choice(sorted(open_pairs))
        within = _fixed(space, open_pairs[pair])
        try:
            drawn = [within.sample(rng) for _ in range(_DRAWS)]
        except ValueError:
            del open_pairs[pair]  # no legal config holds it
            continue
        take(max(drawn, key=lambda config: sum(p in open_pairs for p in _pairs(space, config))))
    return chosen


def _pairs(space: BoundSpace, config: Config) -> list[Pair]:
    names = [param.name for param in space.params]
    return [(a, b, repr(config[a]), repr(config[b])) for a, b in combinations(names, 2)]


def _fixed(space: BoundSpace, values: dict[str, Value]) -> BoundSpace:
    """The part of a space in which some knobs have one value."""
    params = tuple(
        replace(param, values=(values[param.name],)) if param.name in values else param
        for param in space.params
    )
    return space.within(params)
