"""Digests a search space by what it means, not by how its file is written."""

import json
from typing import TYPE_CHECKING

from autotune.identity import digest_of, expression

if TYPE_CHECKING:
    from autotune.space.space import Space


def space_digest(space: "Space") -> str:
    """SHA-256, hex, of what decides a space's configs, their legality, the default and a model's features.

    Names of rules and features, docs and reasons have no part in it, nor has the order of knobs, values,
    rules and features. Of the conditional defaults the first that holds is taken, so their order has.
    """
    params = sorted(
        [p.name, sorted(map(json.dumps, p.values)), p.default, sorted(p.arch), p.option, p.coupled]
        for p in space.params
    )
    rules = sorted({expression(rule.require.text) for rule in space.rules})
    overrides = [[expression(o.when.text), sorted(o.values.items())] for o in space.overrides]
    features = sorted(expression(feature.size.text) for feature in space.features)
    names = [space.backend, space.generation, space.stage]
    return digest_of([names, params, rules, overrides, features])
