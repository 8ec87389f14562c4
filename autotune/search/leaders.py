"""Configs that recorded tables of other layers found fast: what a search tries after the default.

Layers of unlike sizes agree on much: of the twenty configs that lead on two other models one is mostly within
2 % of the best. `scripts/leaders.py` makes the file from recorded tables, with each config's time over the
fastest's on every one of them. A few are chosen that between them serve all; they stand in for the configs
spread over the space that a search begins with otherwise, so that where they are of no use little is lost.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from autotune.problem.layer import Stage
from autotune.resources import data_dir
from autotune.space.config import Config, Value
from autotune.space.space import BoundSpace

COUNT = 10  # as many as a search spreads over the space without them
_WORST = 1.15  # times the fastest from which a config is of no use
FILE = "leaders.json"


def leaders(
    backend: str, arch: str, stage: Stage, space: BoundSpace, *, leaving: Collection[str] = ()
) -> list[Config]:
    """What to try first of a space, the most useful first.

    Args:
        arch: of the device; times of another one say nothing.
        leaving: layers, by key, whose tables are left out, for judging what those of others are worth.
    """
    part = _read(backend).get(arch, {}).get(stage)
    if part is None:
        return []
    fitting = _fitting(space, part["knobs"], part["configs"])
    tables = {key: ratios for key, ratios in part["ratios"].items() if key not in leaving}
    chosen = cover([[ratios[n] for ratios in tables.values()] for n in fitting.values()], COUNT)
    return [list(fitting)[n] for n in chosen]


def _fitting(space: BoundSpace, knobs: Sequence[str], values: Sequence[Sequence[Value]]) -> dict[Config, int]:
    """The places of configs that are legal in the space: knobs that it has got since are as its default has
    them, and a config with a value that it no longer offers is left out."""
    offered = {param.name: param.values for param in space.params}
    fitting: dict[Config, int] = {}
    for place, row in enumerate(values):
        known = {name: value for name, value in zip(knobs, row, strict=True) if name in offered}
        if all(any(v == o and type(v) is type(o) for o in offered[name]) for name, v in known.items()):
            config = space.complete(known)
            if space.is_legal(config):
                fitting.setdefault(config, place)
    return fitting


def cover(ratios: Sequence[Sequence[Sequence[float | None]]], count: int) -> list[int]:
    """Places of configs that between them serve every table at every token count, greedily.

    Args:
        ratios: of each config, by table and token count, its time over the fastest's; None: not recorded.
    """
    if not ratios or not ratios[0]:
        return []
    worth = np.array([[us or _WORST for table in config for us in table] for config in ratios])
    worth = np.minimum(worth, _WORST)
    best = np.full(worth.shape[1], _WORST)
    chosen: list[int] = []
    while len(chosen) < min(count, len(ratios)):
        gains = (best - np.minimum(best, worth)).sum(axis=1)
        gains[chosen] = -1.0
        pick = int(np.argmax(gains))
        if gains[pick] <= 0:
            break
        chosen.append(pick)
        best = np.minimum(best, worth[pick])
    return chosen


@cache
def _read(backend: str) -> Mapping[str, Any]:
    path = data_dir("search_spaces") / backend / FILE
    content: Mapping[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content
